"""`Prober`: what the model itself says of other weights, without a file that holds them.

Knows a corpus, the running model and stored rows. Does not know why they were stored so.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.errors import InputError
from ggufkit.fitting.corpus import Corpus, text_chunks
from ggufkit.formats.model import ModelTensor
from ggufkit.runtime.library import load
from ggufkit.runtime.loading import Device
from ggufkit.runtime.patches import Differences, WeightPatch
from ggufkit.runtime.scoring import iter_logits, open_for_scoring
from quant import logits

F32Array = NDArray[np.float32]


class Tried:
    """Stored rows minus the tensor's own, by expert (n_rows, n_per_row); kept as blocks, for memory's sake."""

    def __init__(self, tensor: ModelTensor, type_name: str) -> None:
        self._tensor, self._qtype = tensor, quant.quant_type(type_name)
        self.blocks: list[NDArray[np.uint8]] = []

    def __getitem__(self, expert: int) -> F32Array:
        difference = quant.dequantize(self.blocks[expert], self._qtype)
        difference -= self._tensor.rows(expert, 0, self._tensor.n_rows)
        return difference


class Prober:
    """The model as it is, and its divergence with some weights changed, on a few chunks of the text."""

    def __init__(self, corpus: Corpus, n_chunks: int) -> None:
        self._patch = WeightPatch(load())
        self._engine = open_for_scoring(
            corpus.model, n_ctx=corpus.n_ctx, threads=corpus.threads, device=Device.CPU,
            eval_callback=self._patch.callback,
        )  # fmt: skip
        try:
            chunks = text_chunks(
                self._engine.vocab, corpus.text, corpus.n_ctx, n_tokens=n_chunks * corpus.n_ctx, spread=True
            )
            if len(chunks) < min(n_chunks, 4):
                raise InputError(
                    f"the calibration text has {len(chunks)} chunks of {corpus.n_ctx} tokens, choosing types needs at "
                    "least 4. Pass more --text."
                )
            self._tokens, self._n_ctx = chunks.reshape(-1), corpus.n_ctx
            self._base = list(self._logits())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.close()

    def kld(self, differences: Mapping[str, Differences]) -> tuple[float, float]:
        """Mean divergence from the unchanged model, nats a token, and one standard error over chunks.

        differences  by tensor name, other weights minus the model's: (n_rows, n_per_row) of each expert
        """
        self._patch.differences = differences
        try:
            pairs = zip(self._base, self._logits(), strict=True)
            means = np.array([_mean_kld(base, now) for base, now in pairs])
        finally:
            self._patch.differences = {}
        return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0

    def _logits(self) -> Iterator[F32Array]:
        """Logits of the scored positions of each chunk, (n_scored, n_vocab)."""
        for block in iter_logits(self._engine, self._tokens, n_ctx=self._n_ctx):
            self._patch.reraise()
            yield block.logits.copy()


def _mean_kld(base: F32Array, now: F32Array) -> float:
    return float(logits.compare(base, now, np.zeros(len(base), dtype=np.int64)).kld.mean())
