"""What follows every product: bias, activation, residual, each rounded in float32; and the order of tiles."""

import triton
import triton.language as tl

from kdnative.ops.backends.triton.activations import activate


@triton.jit
def tile_of(m, n, BM: tl.constexpr, BN: tl.constexpr):
    """Row and column of this program's tile. Programs that run side by side share rows and columns, which then are
    read from memory once: tiles are numbered down columns of eight tiles."""
    DEEP: tl.constexpr = 8
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    program = tl.program_id(0)
    band = program // (DEEP * tiles_n)
    depth = tl.minimum(tiles_m - band * DEEP, DEEP)
    inside = program % (DEEP * tiles_n)
    return band * DEEP + inside % depth, inside // depth


@triton.jit
def finish(
    y,
    rows,
    columns,
    bias,
    residual,
    out,
    m,
    n,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Stores ``activation(y + bias) + residual`` of a float32 tile; residual and out are ``[m, n]``."""
    if HAS_BIAS:
        y += tl.load(bias + columns, mask=columns < n, other=0.0)[None, :]
    y = activate(y, ACTIVATION)
    at = rows.to(tl.int64)[:, None] * n + columns[None, :]
    inside = (rows < m)[:, None] & (columns < n)[None, :]
    if HAS_RESIDUAL:
        y += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)
