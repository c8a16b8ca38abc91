"""A tile: 8,192 weights rearranged so that one loop treats many sub-blocks at once.

Knows blocks, sub-blocks and importance. Does not know scales, levels or bytes.

A block of ggml is 32 or 256 weights; a sub-block is the 16 or 32 neighbours that share one scale. In a tile, column
(*lane*) = sub-block and row = position in the sub-block, so that the innermost loop of every search runs over lanes:
no dependence between iterations, unit stride, any SIMD width.

      blocks (n, 256), sub-blocks of 32                      tile x (32, 256)

      block 0   [sub 0 | sub 1 | ... | sub 7]                row 0   first weights of 256 sub-blocks
      block 1   [sub 0 | sub 1 | ... | sub 7]      ───►      row 1   second weights
        ...                                                    ...
      block 31  [sub 0 | sub 1 | ... | sub 7]                row 31  last weights

      lane = sub · n_blocks + block: sub-block k of all blocks of the tile lies side by side, so that sums over the
      sub-blocks of a block are again loops over neighbouring lanes.
"""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.compiler import inner

F32Array = NDArray[np.float32]

TILE = 8192
BLOCK = 256  # weights of a super-block
SLAB = 32  # tiles searched before their bytes are packed: 1 MiB of weights

LARGEST = np.float32(2.0**30)  # no k-quant reaches further, and squares of it stay finite

_ZERO = np.float32(0)


def block_importance(importance: F32Array | None, n_per_row: int, block_size: int) -> F32Array:
    """Importance per block of a row, (blocks_per_row, block_size), mean 1 in every block; one flat block when None.

    Only ratios inside a block matter to a search. A block without any importance is treated as flat, and a weight
    without importance keeps a millionth, so that its sub-block still gets a sensible scale.
    """
    if importance is None:
        return np.ones((1, block_size), dtype=np.float32)
    blocks = importance.astype(np.float64).reshape(-1, block_size)
    mean = blocks.mean(axis=1, keepdims=True)
    blocks = np.divide(blocks, mean, out=np.ones_like(blocks), where=mean > 0)
    relative: F32Array = (blocks + 1e-6).astype(np.float32)
    return relative


@inner
def load_tile(values, importance, start, first, loaded, x, w):
    """Fill x and w with the tile that begins at values[first:], (n_blocks, n_sub, n).

    start   number of values[0] among all blocks; rows repeat importance (blocks_per_row, block_size)
    loaded  what the last call returned for this w, else -1: tiles that begin alike in their rows share w
    """
    _load(values, first, x)
    phase = (start + first) % importance.shape[0]
    if phase != loaded:
        _load_importance(importance, phase, values.shape[1], w)
    return phase


@inner
def _load(values, first, x):
    """Fill x (n, lanes) from values[first:], (n_blocks, n_sub, n); lanes past the last block become 0."""
    n, lanes = x.shape
    n_sub = values.shape[1]
    n_lane_blocks = lanes // n_sub
    for b in range(n_lane_blocks):
        if first + b < values.shape[0]:
            for sub in range(n_sub):
                lane, v = sub * n_lane_blocks + b, values[first + b, sub]
                for j in range(n):
                    x[j, lane] = v[j]
        else:
            for lane in range(b, lanes, n_lane_blocks):
                for j in range(n):
                    x[j, lane] = _ZERO


@inner
def _load_importance(importance, phase, n_sub, w):
    """Fill w (n, lanes): the tile starts with block `phase` of a row; importance (blocks_per_row, block_size)."""
    n, lanes = w.shape
    n_lane_blocks = lanes // n_sub
    for b in range(n_lane_blocks):
        weights = importance[(phase + b) % importance.shape[0]]
        for sub in range(n_sub):
            lane, part = sub * n_lane_blocks + b, weights[sub * n : sub * n + n]
            for j in range(n):
                w[j, lane] = part[j]
