"""A digest of large files without reading them: sizes and headers are covered completely, weights are sampled.

Two checkpoints of one architecture have equal headers; the sample tells a fine-tuned one from its base.
Not a proof against someone who edits single weights.
"""

import hashlib

from ggufkit.formats.source_file import SourceFile

N_SAMPLES = 32
SAMPLE_NBYTES = 1024


def content_digest(file: SourceFile, data_offset: int, nbytes: int) -> bytes:
    """SHA-256 of a file's size, of every byte before `data_offset`, and of evenly spaced pieces of the rest."""
    digest = hashlib.sha256(f"{nbytes} {data_offset} ".encode())
    digest.update(file.pread(0, min(data_offset, nbytes)).data)
    span = max(0, nbytes - data_offset)
    if span <= N_SAMPLES * SAMPLE_NBYTES:
        digest.update(file.pread(data_offset, span).data)
        return digest.digest()
    for index in range(N_SAMPLES):  # the first and the last bytes are among them
        at = data_offset + index * (span - SAMPLE_NBYTES) // (N_SAMPLES - 1)
        digest.update(file.pread(at, SAMPLE_NBYTES).data)
    return digest.digest()
