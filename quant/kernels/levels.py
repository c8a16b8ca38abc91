"""The last step of every encoder: integer levels of one block, in the block's own order, ready to be packed.

Knows values, scales and levels. Does not know bytes.
"""

import numpy as np

from quant.kernels.compiler import inner

_ZERO = np.float32(0)
_ONE = np.float32(1)
_LARGEST = np.float32(2.0**30)


@inner
def affine_levels(x, scale, low, nmax, level):
    """level[i] = nearest of 0..nmax to (x[i] - low) / scale; 0 where scale is 0."""
    inverse = _ONE / scale if scale != _ZERO else _ZERO
    for i in range(x.shape[0]):
        y = min(max(x[i], -_LARGEST), _LARGEST) - low
        level[i] = np.uint8(np.int32(min(max(np.rint(y * inverse), _ZERO), nmax)))


@inner
def symmetric_levels(x, scale, lowest, highest, level):
    """level[i] = nearest of lowest..highest to x[i] / scale, counted from lowest; that of 0 where scale is 0."""
    inverse = _ONE / scale if scale != _ZERO else _ZERO
    for i in range(x.shape[0]):
        y = min(max(x[i], -_LARGEST), _LARGEST)
        level[i] = np.uint8(np.int32(min(max(np.rint(y * inverse), lowest), highest) - lowest))


@inner
def affine_block_levels(values, d, dmin, codes, nmax, level):
    """affine_levels of all sub-blocks: values (n_sub, n) float32, codes (2, n_sub), level (n_sub, n) uint8."""
    for sub in range(values.shape[0]):
        scale, minimum = d * np.float32(codes[0, sub]), dmin * np.float32(codes[1, sub])
        affine_levels(values[sub], scale, -minimum, nmax, level[sub])


@inner
def symmetric_block_levels(values, d, codes, lowest, highest, level):
    """symmetric_levels of all sub-blocks: values (n_sub, n) float32, codes (n_sub,) int8, level (n_sub, n) uint8."""
    for sub in range(values.shape[0]):
        symmetric_levels(values[sub], d * np.float32(codes[sub]), lowest, highest, level[sub])


@inner
def pack_nibbles(level, qs):
    """32 levels 0..15, the first half below, the second above: qs[i] holds level[i] and level[16 + i]."""
    below, above = level[:16], level[16:]
    for i in range(16):
        qs[i] = (below[i] & 15) | ((above[i] & 15) << 4)


@inner
def pack_fifth_bits(level, qh):
    """Bit 4 of 32 levels, little-endian: bit i of the four bytes belongs to level[i]."""
    for k in range(4):
        byte = 0
        for i in range(8):
            byte |= (level[8 * k + i] >> 4) << i
        qh[k] = byte


@inner
def pack_pairs_of_bits(level, qs):
    """Levels 0..3 of two half blocks, (2, 4, 32) uint8, four to a byte: qs[32h + i] holds level[h, 0..3, i]."""
    for h in range(2):
        q0, q1, q2, q3 = level[h, 0], level[h, 1], level[h, 2], level[h, 3]
        out = qs[32 * h : 32 * h + 32]
        for i in range(32):
            out[i] = q0[i] | (q1[i] << 2) | (q2[i] << 4) | (q3[i] << 6)
