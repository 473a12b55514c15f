"""What the programs of foreign.py are told to do: one water molecule in a small box, or silicon.

Nothing here is symmetric, so that axes, vectors and atoms that change places are noticed.
"""

from __future__ import annotations

from string import Template

import numpy as np

BOX = np.diag([6.0, 6.4, 5.6])  # Angstrom
SYMBOLS = ("O", "H", "H")
WATER = np.array([[2.9, 3.2, 2.75], [3.476, 3.8144, 3.2108], [2.01224, 3.49229, 2.96922]])
# Silicon, its second atom moved off its place, in a cell whose vectors all differ.
CELL = np.array([[0.0, 2.7153, 2.7153], [2.7153, 0.0, 2.7153], [2.7153, 2.7153, 0.0]])
CELL = CELL + np.array([[0.0, 0.0, 0.0], [0.1, 0.05, 0.0], [0.0, 0.0, 0.2]])
SILICON = np.array([[0.0, 0.0, 0.0], [0.26, 0.25, 0.24]])  # of the vectors


def rows(symbols: tuple[str, ...], places: np.ndarray) -> str:
    """``X x y z`` a line."""
    pairs = zip(symbols, places, strict=True)
    return "\n".join(f"{s:2s} " + " ".join(f"{x:14.8f}" for x in place) for s, place in pairs)


def vectors(cell: np.ndarray) -> str:
    """Three numbers a line."""
    return "\n".join(" ".join(f"{x:14.8f}" for x in row) for row in cell)


def marked(symbols: tuple[str, ...], places: np.ndarray) -> str:
    """``X x 1 y 1 z 1`` a line, as MOPAC marks what it may move."""
    pairs = zip(symbols, places, strict=True)
    return "\n".join(f"{s:2s} " + " ".join(f"{x:14.8f} 1" for x in place) for s, place in pairs)


def filled(text: str, **words: str) -> str:
    """An input with its structure, and with ``words`` in their places."""
    return Template(text).substitute(
        words,
        water=rows(SYMBOLS, WATER),
        silicon=rows(("Si", "Si"), SILICON),
        places=vectors(SILICON),
        cell=vectors(CELL),
        halved=vectors(CELL / 2),
        marked=marked(SYMBOLS, WATER),
        translations=marked(("Tv", "Tv", "Tv"), BOX),
        box=" ".join(map(str, np.diag(BOX))),
        box_list=", ".join(map(str, np.diag(BOX))),
    )


CP2K = """&GLOBAL
  PROJECT water
  RUN_TYPE MD
&END
&MOTION
  &MD
    STEPS 2
    TIMESTEP 0.5
    TEMPERATURE 300
  &END
  &PRINT
    &CELL
    &END
  &END
&END
&FORCE_EVAL
  &DFT
    BASIS_SET_FILE_NAME BASIS_SET
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF 160
    &END
    &XC
      &XC_FUNCTIONAL PADE
      &END
    &END
    &PRINT
      &E_DENSITY_CUBE
        STRIDE 3 3 3
      &END
    &END
  &END
  &SUBSYS
    &CELL
      ABC $box
    &END
    &COORD
$water
    &END
    &KIND O
      BASIS_SET DZVP-GTH-PADE
      POTENTIAL GTH-PADE-q6
    &END
    &KIND H
      BASIS_SET DZVP-GTH-PADE
      POTENTIAL GTH-PADE-q1
    &END
  &END
&END
"""

PW = """&control
  calculation = 'relax'
  prefix = 'si'
  outdir = './out'
  pseudo_dir = '/usr/share/espresso/pseudo'
  nstep = 3
/
&system
  ibrav = 0
  nat = 2
  ntyp = 1
  ecutwfc = 8.0
/
&electrons
/
&ions
/
ATOMIC_SPECIES
Si 28.086 Si.pz-vbc.UPF
K_POINTS automatic
2 2 2 1 1 1
CELL_PARAMETERS angstrom
$cell
ATOMIC_POSITIONS crystal
$silicon
"""

PP = """&inputpp
  prefix = 'si'
  outdir = './out'
  plot_num = 0
/
&plot
  nfile = 1
  iflag = 3
  output_format = $number
  fileout = '$name'
/
"""

ABINIT = """ndtset 1
acell 3*2.0 angstrom
rprim
$halved
ntypat 1
znucl 14
natom 2
typat 1 1
xred
$places
ecut 6
ngkpt 2 2 2
kptopt 1
nshiftk 1
shiftk 0.5 0.5 0.5
nsym 1
nstep 30
toldfe 1e-8
iscf 7
prtwf 0
prtgsr 0
prteig 0
prtebands 0
pseudos "/usr/share/abinit/psp/14si.pspnc"
"""

GPAW = """from ase import Atoms
from ase.io import read, write
from gpaw import GPAW
atoms = read('input.xyz')
atoms.cell, atoms.pbc = ($box_list), True
calculator = GPAW(mode='lcao', basis='dzp', gpts=(20, 20, 16), txt='water.txt', symmetry='off')
atoms.calc = calculator
atoms.get_potential_energy()
density = calculator.get_all_electron_density(gridrefinement=1)
bohr = 0.529177210903
write('water.cube', atoms, data=density * bohr**3)
"""

PYSCF = """from pyscf import gto, scf
from pyscf.tools import cubegen
mol = gto.M(atom='''$water''', basis='6-31g', verbose=0)
mol.tofile('water.xyz')
mf = scf.RHF(mol).run()
cubegen.density(mol, 'water.cube', mf.make_rdm1(), nx=20, ny=22, nz=18)
"""

PSI4 = """molecule water {
$water
units angstrom
no_reorient
no_com
symmetry c1
}
set {
  basis 6-31g
  scf_type df
  cubeprop_tasks ['density']
  cubic_grid_spacing [0.6, 0.6, 0.6]
}
energy, wave = energy('scf', return_wfn=True)
cubeprop(wave)
water.save_xyz_file('water.xyz', 1)
"""

NWCHEM = """start water
geometry units angstroms noautosym nocenter noautoz
$water
end
basis
  * library 6-31g
end
scf
  thresh 1e-8
end
task scf energy
dplot
  title electrons
  vectors water.movecs
  limitxyz units angstrom
  0.0 6.0 20
  0.0 6.4 22
  0.0 5.6 18
  spin total
  gaussian
  output water.cube
end
task dplot
"""

XTB = """3
water
$water
"""

XTB_CUBE = """$write
 density=true
$cube
 step=0.5
$end
"""

MOPAC = """PM7 CHARGE=0 SINGLET
water

$marked
"""

MOPAC_BOX = """PM7 1SCF
water in a box

$marked
$translations
"""

ELK = """tasks
  0

ngridk
  2 2 2

maxscl
  1

sppath
  '/usr/share/elk-lapw/species/'

scale
  1.8897261246

avec
$cell

atoms
  1
  'Si.in'
  2
$places
"""
