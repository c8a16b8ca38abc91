"""Bits to bytes, for the layouts that share them.

Knows levels as rows of blocks side by side, level[i, b] = level i of block b, and byte positions in out (n_blocks,
type_size). Does not know scales.
"""

import numpy as np

from quant.kernels.compiler import inner


@inner
def pack_nibbles(below, above, at, out):
    """out[b, at + i] = below[i, b] in bits 0-3, above[i, b] in bits 4-7."""
    for b in range(out.shape[0]):
        for i in range(below.shape[0]):
            out[b, at + i] = (below[i, b] & 15) | ((above[i, b] & 15) << 4)


@inner
def pack_pairs_of_bits(q0, q1, q2, q3, bit, at, out):
    """out[b, at + i] = bits `bit` and `bit` + 1 of q0[i, b], q1[i, b], q2[i, b], q3[i, b] from the lowest bits up."""
    for b in range(out.shape[0]):
        for i in range(q0.shape[0]):
            low = ((q0[i, b] >> bit) & 3) | (((q1[i, b] >> bit) & 3) << 2)
            out[b, at + i] = low | (((q2[i, b] >> bit) & 3) << 4) | (((q3[i, b] >> bit) & 3) << 6)


@inner
def pack_bits(level, bit, at, out):
    """out[b, at + i] = bit `bit` of level[i, 0..7, b], the first in bit 0."""
    for b in range(out.shape[0]):
        for i in range(level.shape[0]):
            byte = np.uint8(0)
            for k in range(8):
                byte |= ((level[i, k, b] >> bit) & 1) << k
            out[b, at + i] = byte


@inner
def pack_block32(level, at, out):
    """Sixteen bytes from out[:, at]: level i in bits 0-3, level 16 + i in bits 4-7. level (32, n_blocks)."""
    pack_nibbles(level[:16], level[16:], at, out)


@inner
def pack_fifth_bits(level, at, out):
    """Four bytes from out[:, at]: bit 4 of 32 levels, little-endian. level (32, n_blocks)."""
    pack_bits(level.reshape(4, 8, level.shape[1]), 4, at, out)
