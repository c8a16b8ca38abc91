"""A digest of large files without reading them: sizes and headers are covered completely, weights are sampled.

Two checkpoints of one architecture have equal headers; the sample tells a fine-tuned one from its base.
Not a proof against someone who edits single weights.
"""

import hashlib

from ggufkit.formats.tensor import SourceFile

N_SAMPLES = 32
SAMPLE_NBYTES = 1024


def sample_digest(file: SourceFile, start: int, stop: int) -> bytes:
    """SHA-256 of evenly spaced pieces of bytes [start, stop), the first and the last included."""
    digest = hashlib.sha256()
    span = stop - start
    if span <= N_SAMPLES * SAMPLE_NBYTES:
        digest.update(file.pread(start, max(0, span)).data)
        return digest.digest()
    for index in range(N_SAMPLES):
        digest.update(file.pread(start + index * (span - SAMPLE_NBYTES) // (N_SAMPLES - 1), SAMPLE_NBYTES).data)
    return digest.digest()
