"""The per-edge work of the probe stack in one Triton kernel a degree, for float32 on a GPU.

A program takes PROBES probes that lie together in space and COLUMNS channels of one Y_l. It goes
through the atom images near its probes and adds R_c(r) (A_c . Y_l) in registers; nothing that has
an edge for an index is written to memory, neither vectors nor messages. The dense maps that
follow stay PyTorch's matrix products: exact float32, TF32 only if the caller has asked PyTorch
for it (torch.set_float32_matmul_precision).

What the work amounts to, for the paper's network (C = 534 channels of three layers: 300, 99, 60,
42, 33 of Y_0 .. Y_4), counted and not measured, useful numbers only:

    an edge    a table look-up    4 C multiply-adds, 16 C bytes                  8.5 kB
               A . Y              sum of (2l + 1) C_l = 1,488 multiply-adds
               R (A . Y), summed  C multiply-adds
               in all             4.2 k multiply-adds = 8.3 kFLOP; the geometry, about 60 operations
                                  (8 of them float64), comes anew for every block of channels
    a probe    in                 24 bytes of position
               out                4 C = 2.1 kB of sums, read once more by the dense maps
               dense maps         18 k + 28 k + 28 k multiply-adds = 148 kFLOP

Against an H200 (4.8 TB/s, 67 TFLOP/s in float32, 494 TFLOP/s in dense TF32): the arithmetic of
8.1 G edges/s, 450 M probes/s of dense maps in float32 and 3.3 G in TF32, and 1.1 G probes/s of
sums through memory. The table (513 nodes: 2.2 MB; 2,049: 8.8 MB) and the sources (6 kB an atom)
stay in the 50 MB second-level cache, so that look-ups do not reach memory. At the memory's rate
they would allow 0.56 G edges/s: **they are the limit to hold a measurement against**, by a factor
of 14 before the arithmetic. With eight atoms in reach of a probe it is 70 M probes/s.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _vector(
    probes: tl.tensor,
    count: tl.tensor,
    images: tl.tensor,
    reach: tl.tensor,
    image: tl.tensor,
    PROBES: tl.constexpr,
) -> tuple:
    """From an image to a block's probes: x, y, z in float32, and which of them it reaches.

    Whether it does is settled in float64: the density jumps at the cutoff.
    """
    p = tl.program_id(0) * PROBES + tl.arange(0, PROBES)
    real = p < count
    x = tl.load(probes + 3 * p, mask=real, other=0.0) - tl.load(images + 3 * image)
    y = tl.load(probes + 3 * p + 1, mask=real, other=0.0) - tl.load(images + 3 * image + 1)
    z = tl.load(probes + 3 * p + 2, mask=real, other=0.0) - tl.load(images + 3 * image + 2)
    inside = real & (x * x + y * y + z * z < tl.load(reach))
    return x.to(tl.float32), y.to(tl.float32), z.to(tl.float32), inside


@triton.jit
def _azimuthal(M: tl.constexpr, x: tl.tensor, z: tl.tensor) -> tl.tensor:
    """Real part of (z + i x)^M for M >= 0, imaginary part of (z + i x)^-M for M < 0."""
    real, imaginary = z * 0.0 + 1.0, z * 0.0
    for _ in tl.static_range(M if M > 0 else -M):
        real, imaginary = z * real - x * imaginary, z * imaginary + x * real
    return real if M >= 0 else imaginary


@triton.jit
def _polar(DEGREE: tl.constexpr, M: tl.constexpr, y: tl.tensor, q: tl.tensor) -> tl.tensor:
    """d^M P_l(y) / dy^M but for a factor, with x^2 + y^2 + z^2 for one: zero at zero.

    q = x^2 + z^2. Legendre's polynomials P_l, 0 <= M <= l <= 4.
    """
    if DEGREE == M:
        return y * 0.0 + 1.0
    elif DEGREE - M == 1:
        return y
    elif DEGREE == 2:
        return y * y - 0.5 * q
    elif DEGREE == 3 and M == 1:
        return 4.0 * y * y - q
    elif DEGREE == 3:
        return y * (y * y - 1.5 * q)
    elif M == 2:
        return 6.0 * y * y - q
    elif M == 1:
        return y * (4.0 * y * y - 3.0 * q)
    else:
        return y * y * (y * y - 3.0 * q) + 0.375 * q * q


@triton.jit
def _harmonic(
    DEGREE: tl.constexpr,
    M: tl.constexpr,
    x: tl.tensor,
    y: tl.tensor,
    z: tl.tensor,
    q: tl.tensor,
) -> tl.tensor:
    """Y_lm of unit vectors but for its norm, as :mod:`harmonics` orders them: y is the pole."""
    return _azimuthal(M, x, z) * _polar(DEGREE, M if M > 0 else -M, y, q)


@triton.jit
def _hermite(
    table: tl.tensor,
    place: tl.tensor,
    inside: tl.tensor,
    last: tl.tensor,
    columns: tl.tensor,
    stride: tl.tensor,
) -> tl.tensor:
    """A table's channels at (PROBES,) places in [0, last + 1], zero where nothing is reached."""
    left = tl.minimum(tl.floor(place), last)
    t = place - left
    c2 = t * t * (3.0 - 2.0 * t)
    c4 = t * t * (t - 1.0)
    c3 = c4 - t * (t - 1.0)
    row = 2 * left.to(tl.int32) * stride
    spot = table + row[:, None] + columns[None, :]  # (PROBES, COLUMNS)
    mask = inside[:, None]
    value = (1.0 - c2)[:, None] * tl.load(spot, mask=mask, other=0.0)
    value = tl.fma(c3[:, None], tl.load(spot + stride, mask=mask, other=0.0), value)
    value = tl.fma(c2[:, None], tl.load(spot + 2 * stride, mask=mask, other=0.0), value)
    return tl.fma(c4[:, None], tl.load(spot + 3 * stride, mask=mask, other=0.0), value)


@triton.jit
def summed_messages(
    probes: tl.tensor,  # (P, 3) float64
    count: tl.tensor,  # P
    images: tl.tensor,  # (G, 3) float64
    atom_index: tl.tensor,  # (G,) int32
    reach: tl.tensor,  # (1,) float64, the cutoff's square
    first: tl.tensor,  # (blocks + 1,) int32
    near: tl.tensor,  # images, block by block, int32
    source: tl.tensor,  # (A, 2 l + 1, stride)
    table: tl.tensor,  # (2 bins, stride)
    out: tl.tensor,  # (P, width), from the degree's first channel on
    width: tl.tensor,
    channels: tl.tensor,  # of the degree
    stride: tl.tensor,  # as many and up to a multiple of COLUMNS
    steps: tl.tensor,  # of the table, per Angstrom
    last: tl.tensor,  # bins - 2, as a float
    DEGREE: tl.constexpr,
    PROBES: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Sum over images of R_c(r) (A_c . Y_l): a block of probes, a block of channels of Y_l."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((PROBES, COLUMNS), tl.float32)
    start = tl.load(first + tl.program_id(0))
    stop = tl.load(first + tl.program_id(0) + 1)
    for n in range(start, stop):
        image = tl.load(near + n)
        x, y, z, inside = _vector(probes, count, images, reach, image, PROBES)
        length = tl.sqrt_rn(x * x + y * y + z * z)
        inverse = tl.div_rn(1.0, tl.where(length > 0.0, length, 1.0))
        x, y, z = x * inverse, y * inverse, z * inverse
        place = tl.minimum(length * steps, last + 1.0)
        radial = _hermite(table, place, inside, last, columns, stride)
        row = (
            source + tl.load(atom_index + image).to(tl.int64) * (2 * DEGREE + 1) * stride + columns
        )
        coupled = tl.zeros((PROBES, COLUMNS), tl.float32)
        q = x * x + z * z
        for m in tl.static_range(2 * DEGREE + 1):
            harmonic = _harmonic(DEGREE, m - DEGREE, x, y, z, q)
            coupled = tl.fma(harmonic[:, None], tl.load(row + m * stride)[None, :], coupled)
        total = tl.fma(radial, coupled, total)
    p = tl.program_id(0) * PROBES + tl.arange(0, PROBES)
    mask = (p < count)[:, None] & (columns < channels)[None, :]
    tl.store(out + p.to(tl.int64)[:, None] * width + columns[None, :], total, mask=mask)


@triton.jit
def summed_atoms(
    probes: tl.tensor,
    count: tl.tensor,
    images: tl.tensor,
    types: tl.tensor,  # (G,) int32
    reach: tl.tensor,
    first: tl.tensor,
    near: tl.tensor,
    exponents: tl.tensor,  # (K,)
    coefficients: tl.tensor,  # (types, K)
    gaussians: tl.tensor,  # K
    scale: tl.tensor,  # 1 / cutoff^2
    out: tl.tensor,  # (P,)
    PROBES: tl.constexpr,
    GAUSSIANS: tl.constexpr,
) -> None:
    """Sum over images of a promolecule's spherical atoms, at a block of probes."""
    k = tl.arange(0, GAUSSIANS)
    steepness = tl.load(exponents + k, mask=k < gaussians, other=0.0)
    total = tl.zeros((PROBES,), tl.float32)
    start = tl.load(first + tl.program_id(0))
    stop = tl.load(first + tl.program_id(0) + 1)
    for n in range(start, stop):
        image = tl.load(near + n)
        x, y, z, inside = _vector(probes, count, images, reach, image, PROBES)
        squared = x * x + y * y + z * z
        row = coefficients + tl.load(types + image) * gaussians + k
        heights = tl.load(row, mask=k < gaussians, other=0.0)
        bells = tl.exp(-squared[:, None] * steepness[None, :])  # (PROBES, GAUSSIANS)
        envelope = tl.maximum(1.0 - squared * scale, 0.0)
        atom = tl.sum(bells * heights[None, :], 1) * envelope * envelope
        total += tl.where(inside, atom, 0.0)
    p = tl.program_id(0) * PROBES + tl.arange(0, PROBES)
    tl.store(out + p, total, mask=p < count)
