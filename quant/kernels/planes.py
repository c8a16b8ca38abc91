"""Bits of levels and codes taken out of blocks and put into them. Knows bytes and shifts. Does not know types."""

from quant.kernels.compiler import kernel


@kernel
def take(blocks, byte, shift, kept, low, out):
    """out (n, length of a plane) gains, from bit `low` on, the bits `kept` of byte[i] >> shift[i] of each block."""
    for b in range(blocks.shape[0]):
        block, row = blocks[b], out[b]
        for i in range(byte.shape[0]):
            row[i] |= ((block[byte[i]] >> shift[i]) & kept) << low


@kernel
def put(blocks, byte, shift, kept, low, stored):
    """The other way round: blocks change, `stored` (n, length of a plane) stays."""
    for b in range(blocks.shape[0]):
        block, row = blocks[b], stored[b]
        for i in range(byte.shape[0]):
            at = byte[i]
            block[at] = (block[at] & ~(kept << shift[i])) | (((row[i] >> low) & kept) << shift[i])
