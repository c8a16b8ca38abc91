"""Memory of running a model: weights, keys and values of the context, and room to compute. Pure arithmetic.

    weights        the file's tensors, held once (mapped, or repacked into buffers of the same size)
    kv cache       n_ctx x n_layer x n_head_kv x (head_dim_k + head_dim_v) x 2 bytes: F16
    compute        activations of one micro-batch; an estimate that lies above what llama.cpp reserves
    logits         rows that a decode hands out, and those of a micro-batch on the way there: with a vocabulary of
                   50,000 tokens or more they are the largest part

Used by plans before anything is loaded, and by the engine to choose a context. Does not know llama.cpp's library.
"""

from typing import NamedTuple

from ggufkit.formats.model import Hparams

KV_BYTES = 2  # F16
CTX_STEP = 256  # llama.cpp pads contexts to this
N_UBATCH = 512  # llama.cpp's default
SPARE = 0.9  # of the memory may be used; the rest is for everything else that runs
_BASE_NBYTES = 64 << 20  # the process itself, with Python and numpy


class Decoding(NamedTuple):
    """What a context is opened for: tokens of a sequence, sequences, tokens of a batch, rows of logits it gives."""

    n_ctx: int
    n_seq: int
    n_batch: int
    n_outputs: int
    n_ubatch: int = N_UBATCH


class Footprint(NamedTuple):
    """Bytes of models that are run: weights (mapped from the files, the system may take them back), keys and values,
    room to compute, logits, and the process itself."""

    weights: int
    kv: int
    compute: int
    logits: int
    base: int

    @property
    def total(self) -> int:
        return sum(self)


def footprint(weights_nbytes: int, hparams: Hparams, decoding: Decoding, *, base: int = 0) -> Footprint:
    """Memory of one model that decodes so."""
    n_ubatch = min(decoding.n_ubatch, decoding.n_batch)
    rows = decoding.n_outputs + min(n_ubatch, decoding.n_outputs)
    return Footprint(
        weights_nbytes,
        kv_nbytes(hparams, decoding.n_ctx, n_seq=decoding.n_seq),
        compute_nbytes(hparams, decoding.n_ctx * decoding.n_seq, n_ubatch=n_ubatch, n_outputs=0),
        4 * rows * hparams.n_vocab,
        base,
    )


def kv_nbytes(hparams: Hparams, n_ctx: int, *, n_seq: int = 1) -> int:
    """Bytes of the KV cache of `n_seq` sequences of `n_ctx` tokens."""
    per_token = hparams.n_layer * hparams.n_head_kv * (hparams.head_dim_k + hparams.head_dim_v) * KV_BYTES
    return n_seq * _padded(n_ctx) * per_token


def compute_nbytes(hparams: Hparams, n_ctx: int, *, n_ubatch: int = N_UBATCH, n_outputs: int = 1) -> int:
    """Bytes that llama.cpp reserves for one micro-batch of `n_ubatch` tokens, an upper estimate.

    Counted in rows of n_embd floats a token: 4 for the residual stream and attention, 12 for a feed-forward block of
    up to 3.5 n_embd (8B, 70B: 14.6 in all), twice that for the chosen experts of Mixtral (25.1); models that choose
    more experts have narrower ones. With it an F16 mask over the context, and the logits.
    """
    n_rows = 4 + 12 * min(2, max(1, hparams.n_expert_used))
    mask = 2 * _padded(n_ctx)
    return n_ubatch * (4 * n_rows * hparams.n_embd + mask) + 4 * n_outputs * hparams.n_vocab


def run_nbytes(weights_nbytes: int, hparams: Hparams, n_ctx: int, *, n_ubatch: int = N_UBATCH) -> int:
    """Bytes that generating with a context of `n_ctx` takes altogether."""
    compute = compute_nbytes(hparams, n_ctx, n_ubatch=n_ubatch)
    return weights_nbytes + kv_nbytes(hparams, n_ctx) + compute + _BASE_NBYTES


def fits(total_ram: int, weights_nbytes: int, hparams: Hparams, n_ctx: int) -> bool:
    """Whether it runs in `total_ram` bytes with a tenth to spare."""
    return run_nbytes(weights_nbytes, hparams, n_ctx) <= total_ram * SPARE


def largest_ctx(total_ram: int, weights_nbytes: int, hparams: Hparams) -> int:
    """The longest context that fits, at most the training length; 0 where not even 256 tokens do."""
    n_train = hparams.n_ctx_train or 1 << 20
    if fits(total_ram, weights_nbytes, hparams, n_train):
        return n_train
    low, high = 0, n_train // CTX_STEP  # low fits (0 stands for none), high does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(total_ram, weights_nbytes, hparams, middle * CTX_STEP):
            low = middle
        else:
            high = middle
    return low * CTX_STEP


def _padded(n_ctx: int) -> int:
    return -(-n_ctx // CTX_STEP) * CTX_STEP
