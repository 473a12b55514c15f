"""Where PySCF's SCF begins: the orbitals of a predicted density.

With the density rho of a model, the Fock matrix

    F = h + J[rho] + V_xc[rho],    h = T + V_nuclei (or pseudopotentials),

is that of the converged SCF as far as rho is its density; its lowest orbitals, filled, are the
initial density matrix. h is PySCF's own, the rest is integrated on a coarse grid of PySCF's. The
exchange of a hybrid functional or of Hartree-Fock needs orbitals, which a density does not have,
and so does a meta-GGA: there V_xc is PBE's, whose the bundled model's densities are.

Where integrals are fitted, a Fock matrix on a coarse grid is cheap beside one of the SCF's, and
some such steps follow: with D_k the density matrix of F_k and V the SCF's own potential, exact
exchange and spins included,

    F_(k+1) = sum_j w_j (F_j + m (h + V[D_j] - F_j)),    sum_j w_j = 1,

w the weights of the smallest sum of w_j (D[h + V[D_j]] - D_j) (Anderson, J. ACM 12, 547, 1965). m
is small, as D_k errs by about twice what F_k's density does, to the other side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from neupol_cli import registry
from neupol_cli.charges import free_atoms, pieces
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.charges.pieces import Deformation
from neupol_cli.density import measures
from neupol_cli.density.on_grid import predict
from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE
from neupol_cli.io.volumetric import Volume, by_spacing
from neupol_cli.potential.electrons import Electrons

if TYPE_CHECKING:
    from pyscf.dft import Grids
    from pyscf.gto import Mole
    from pyscf.scf.hf import SCF

    from neupol_cli.models.density.model import DensityModel

SPACING, MARGIN = 0.25, 3.6  # Angstrom, of the grid on which the model is asked
MEMORY = 1 << 30  # bytes for its tiles
LEVEL = 1  # of PySCF's grid, on which the matrix is integrated
BLOCK = 4000  # of its points whose orbitals are in memory at once
NOTHING = 1e-7  # of an orbital
STEPS = 2  # on a grid of PySCF's of the level COARSE, where V is fitted
COARSE, MIXED = 0, 0.3  # ..., m
INSTEAD = "pbe"  # of functionals that want more than a density


def initial_density_matrix(mf: SCF, model: str | DensityModel = "density") -> np.ndarray:
    """The density matrix of a predicted density, for ``mf.kernel(dm0=...)``.

    Of a charged molecule it is the neutral one's potential that is filled with its electrons, of an
    open shell both spins have the same potential.

    Args:
        mf: PySCF's RHF, UHF, ROHF, RKS, UKS or ROKS of a molecule, with or without density fitting.
        model: a density model, or where it is: a bundled name, a run folder, a file.

    Returns:
        (O, O), or (2, O, O) where ``mf`` has two spins, with the molecule's number of electrons.

    Raises:
        InputError: the molecule is periodic, has elements that the model does not know or a
            pseudopotential with another number of electrons than its free atom; ``mf`` is of
            another kind.
    """
    _check(mf)
    loaded = registry.load_density(model) if isinstance(model, str) else model
    return density_matrix(mf, predicted(mf.mol, loaded))


def _check(mf: SCF) -> None:
    """InputError for an SCF that cannot begin so."""
    from pyscf.pbc.gto import Cell
    from pyscf.scf.hf import RHF
    from pyscf.scf.uhf import UHF

    if isinstance(mf.mol, Cell):
        raise InputError("the SCF is periodic; only those of molecules begin from a density")
    if not isinstance(mf, RHF | UHF):
        raise InputError(
            f"an SCF of kind {type(mf).__name__} does not begin from a density; RHF, UHF, ROHF, "
            "RKS, UKS and ROKS do"
        )


def predicted(molecule: Mole, model: DensityModel) -> Deformation:
    """A model's density less its free atoms, with free atoms as the molecule's basis has them.

    Raises:
        InputError: as :func:`initial_density_matrix`.
    """
    real = np.flatnonzero(molecule.atom_charges()).tolist()  # no ghosts
    places = molecule.atom_coords()[real] * BOHR
    atoms = Atoms([molecule.atom_pure_symbol(i) for i in real], places)
    label = atoms.get_chemical_formula()
    model.check([atoms], [label])
    free = [_free_atom(molecule, i, z) for i, z in zip(real, atoms.numbers.tolist(), strict=True)]
    volume = predict(model, atoms, by_spacing(atoms, SPACING, MARGIN), MEMORY, _silent).volume
    own = _free_atoms_of_model(model, volume, label)
    return replace(pieces.deformation(volume, own, 0), free=free)


def _free_atoms_of_model(model: DensityModel, volume: Volume, label: str) -> list[FreeAtom]:
    """Those whose electrons a model's density holds."""
    valence = measures.valence_of(model.header)
    if measures.charges_of(volume.atoms, valence) is None:
        return pieces.free_atoms_of(volume, 0, label)
    return free_atoms.of_model(volume.atoms.numbers.tolist(), valence)


def _silent(done: int) -> None:
    """No progress is shown."""


def _free_atom(molecule: Mole, index: int, number: int) -> FreeAtom:
    """The free atom of an element with the electrons that it brings to an SCF."""
    charge, symbol = int(molecule.atom_charge(index)), molecule.atom_symbol(index)
    atom = free_atoms.free_atom(number, charge < number or symbol in molecule._pseudo)
    if atom.electrons != charge:
        raise InputError(
            f"{symbol} brings {charge} electrons to the SCF, its free atom {atom.electrons:g}"
        )
    return atom


def density_matrix(mf: SCF, deformation: Deformation) -> np.ndarray:
    """The density matrix that an SCF with a given density begins with.

    Args:
        mf: as in :func:`initial_density_matrix`.
        deformation: the density less its free atoms.

    Returns:
        (O, O) or (2, O, O).

    Raises:
        InputError: as :func:`initial_density_matrix`.
    """
    core = mf.get_hcore()
    fock = core + _of_electrons(mf, Electrons(deformation))
    if getattr(mf, "with_df", None) is None:
        return _filled(mf, fock)
    return _settled(mf, core, fock)


@dataclass(frozen=True, eq=False)
class _Step:
    """A Fock matrix, what its density matrix answers, and the change of that by the answer.

    Attributes:
        fock, answer: (O, O) or (2, O, O) Hartree.
        change: the elements of the change where orbitals are orthonormal.
    """

    fock: np.ndarray
    answer: np.ndarray
    change: np.ndarray


def _settled(mf: SCF, core: np.ndarray, fock: np.ndarray) -> np.ndarray:
    """(O, O) or (2, O, O): the density matrix after some steps from a Fock matrix."""
    coarse, root, steps = _coarse(mf), np.linalg.cholesky(mf.get_ovlp()), list[_Step]()
    matrix = _filled(mf, fock)
    for _ in range(STEPS):
        potential = coarse.get_veff(dm=matrix)
        answer = np.asarray(mf.get_fock(core, vhf=potential, dm=matrix))
        change = root.T @ (np.asarray(_filled(mf, answer)) - np.asarray(matrix)) @ root
        steps.append(_Step(fock, answer, change.ravel()))
        fock = _mixed(steps)
        matrix = _filled(mf, fock)
    return matrix


def _coarse(mf: SCF) -> SCF:
    """The same SCF, its integrals shared, with few points for exchange and correlation."""
    from pyscf.dft.rks import KohnShamDFT

    coarse = mf.copy()
    if isinstance(mf, KohnShamDFT):
        coarse.grids = _grid(mf.mol, COARSE)
    return coarse


def _mixed(steps: Sequence[_Step]) -> np.ndarray:
    """The next Fock matrix."""
    *before, last = steps
    apart = np.array([step.change - last.change for step in before])
    weights = np.linalg.lstsq(apart.T, -last.change)[0] if before else np.zeros(0)
    every = zip(steps, [*weights, 1.0 - weights.sum()], strict=True)
    return sum(w * (step.fock + MIXED * (step.answer - step.fock)) for step, w in every)


def _filled(mf: SCF, fock: np.ndarray) -> np.ndarray:
    """(O, O) or (2, O, O): the density matrix of a Fock matrix's lowest orbitals."""
    from pyscf.scf.uhf import UHF

    if isinstance(mf, UHF) and fock.ndim == 2:
        fock = np.stack([fock, fock])
    energies, orbitals = mf.eig(fock, mf.get_ovlp())
    # With the orbitals that PySCF attaches, by which it is quicker.
    matrix: np.ndarray = mf.make_rdm1(orbitals, mf.get_occ(energies, orbitals))
    return matrix


def _of_electrons(mf: SCF, electrons: Electrons) -> np.ndarray:
    """(O, O) Hartree: J and V_xc of a density.

        V_ij = int (v_J + df/drho) phi_i phi_j + df/d(grad rho) . grad(phi_i phi_j),

    with f the energy of exchange and correlation per volume.
    """
    from pyscf.dft import libxc
    from pyscf.dft.numint import NumInt

    xc, molecule, integrator = _functional(mf), mf.mol, NumInt()
    kind = libxc.xc_type(xc)
    matrix = np.zeros((molecule.nao, molecule.nao))
    for points, weights in _blocks(molecule):
        density, volts = electrons.at(points * BOHR)
        density *= BOHR ** np.array([[3], [4], [4], [4]])
        rho = density if kind == "GGA" else density[0]
        terms = np.zeros((4, len(points)))
        local = integrator.eval_xc_eff(xc, rho, deriv=1, xctype=kind)[1]
        terms[: len(local)] = local
        # Half of it, as the transpose is added; of a product's gradient that brings the other half.
        terms[0] = (terms[0] - volts / HARTREE) / 2
        _add(matrix, integrator.eval_ao(molecule, points, deriv=1), weights * terms)
    return matrix + matrix.T


def _functional(mf: SCF) -> str:
    """That of the SCF where a density is all that it needs."""
    from pyscf.dft import libxc
    from pyscf.dft.rks import KohnShamDFT

    if not isinstance(mf, KohnShamDFT) or libxc.is_hybrid_xc(mf.xc):
        return INSTEAD
    return str(mf.xc) if libxc.xc_type(mf.xc) in ("LDA", "GGA") else INSTEAD


def _blocks(molecule: Mole) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points (P, 3) in bohr, near to each other, and their weights (P,)."""
    grid = _grid(molecule, LEVEL).build()
    for start in range(0, len(grid.weights), BLOCK):
        some = slice(start, start + BLOCK)
        yield grid.coords[some], grid.weights[some]


def _grid(molecule: Mole, level: int) -> Grids:
    """PySCF's points in a molecule, not built yet."""
    from pyscf.dft import Grids

    grid = Grids(molecule)
    grid.level = level
    return grid


def _add(matrix: np.ndarray, orbitals: np.ndarray, terms: np.ndarray) -> None:
    """Adds what some points give to a matrix (O, O).

    Args:
        matrix: is changed.
        orbitals: (4, P, O) and their gradients.
        terms: (4, P) what they are multiplied by, weights included.
    """
    near = np.flatnonzero(np.abs(orbitals[0]).max(axis=0) > NOTHING)
    orbitals = orbitals[:, :, near]
    matrix[np.ix_(near, near)] += orbitals[0].T @ np.einsum("cp,cpo->po", terms, orbitals)
