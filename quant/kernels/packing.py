"""Bits to bytes, for the layouts that share them. Blocks lie side by side in every row of levels.

Knows levels and byte positions. Does not know scales.
"""

import numpy as np

from quant.kernels.compiler import inner


@inner
def pack_nibbles(below, above, at, out):
    """out[b, at] = below[b] in bits 0-3, above[b] in bits 4-7."""
    for b in range(out.shape[0]):
        out[b, at] = (below[b] & 15) | ((above[b] & 15) << 4)


@inner
def pack_pairs_of_bits(q0, q1, q2, q3, at, out):
    """out[b, at] = bits 0-1 of q0[b], q1[b], q2[b], q3[b] from the lowest bits up."""
    for b in range(out.shape[0]):
        out[b, at] = (q0[b] & 3) | ((q1[b] & 3) << 2) | ((q2[b] & 3) << 4) | ((q3[b] & 3) << 6)


@inner
def pack_bits(levels, bit, at, out):
    """out[b, at] = bit `bit` of the eight rows of `levels`, the first in bit 0."""
    for b in range(out.shape[0]):
        byte = np.uint8(0)
        for k in range(8):
            byte |= ((levels[k, b] >> bit) & 1) << k
        out[b, at] = byte


@inner
def pack_block32(level, at, out):
    """Sixteen bytes from out[:, at]: level i in bits 0-3, level 16 + i in bits 4-7. level (32, n_blocks)."""
    for i in range(16):
        pack_nibbles(level[i], level[16 + i], at + i, out)


@inner
def pack_fifth_bits(level, at, out):
    """Four bytes from out[:, at]: bit 4 of 32 levels, little-endian. level (32, n_blocks)."""
    for k in range(4):
        pack_bits(level[8 * k : 8 * k + 8], 4, at + k, out)
