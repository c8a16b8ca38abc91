"""Every reading of the text runs the whole file: what is shown, in which groups, and what is told."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.fitting.corpus import Corpus, corpus_chunks
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.sums import SumsObserver
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.runtime.activations import Activations
from ggufkit.runtime.loading import Device
from ggufkit.runtime.vocabulary import open_vocabulary
from quant.errors import NonFiniteError
from tests.fitting import stories

N_CHUNK, N_CTX, NAME = 6, 64, "blk.0.attn_q.weight"


@pytest.fixture
def corpus(stories_f32: Path) -> Corpus:
    text = shipped_text(CALIBRATION_TEXT)[:20000]
    return Corpus(stories_f32, text, n_tokens=N_CHUNK * N_CTX, n_ctx=N_CTX, threads=1, device=Device.CPU)


class Groups(SumsObserver):
    """Sums, and which groups were begun with how many tokens before."""

    def __init__(self) -> None:
        super().__init__(NAME.__eq__)
        self.begun: list[tuple[int, int]] = []

    def begin_group(self, index: int) -> None:
        super().begin_group(index)
        self.begun.append((index, int(self.sums[NAME].counts[0]) if self.sums else 0))


def wanted(corpus: Corpus, first_chunk: int) -> np.ndarray:
    """Sums of squares of what stands before the first layer's queries: rows of the embedding, normed."""
    with open_vocabulary(corpus.model) as vocab:
        chunks = corpus_chunks(vocab, corpus)
    of = stories.weights(corpus.model)
    rows = of["token_embd.weight"][chunks[first_chunk:].reshape(-1)]
    return np.square(stories.normed(rows, of["blk.0.attn_norm.weight"])).sum(axis=0)


@pytest.mark.parametrize("first_group", [0, 1])
def test_the_inputs_of_the_first_layer_are_numpys(first_group: int, corpus: Corpus) -> None:
    observer, told = Groups(), []
    n = WholeModel(corpus).observe(observer, lambda *at: told.append(at), first_group=first_group)
    first_chunk = first_group * 4
    assert (n, told) == (N_CHUNK, [(i + 1, N_CHUNK) for i in range(first_chunk, N_CHUNK)])
    assert observer.begun == ([(0, 0), (1, 4 * N_CTX)] if first_group == 0 else [(1, 0)])
    found = observer.sums[NAME]
    assert found.counts.tolist() == [(N_CHUNK - first_chunk) * N_CTX]
    np.testing.assert_allclose(found.sums[0], wanted(corpus, first_chunk), rtol=1e-4)


def test_the_file_is_made_before_it_is_opened(corpus: Corpus, tmp_path: Path) -> None:
    later = tmp_path / "later.gguf"
    source = WholeModel(dataclasses.replace(corpus, model=later))
    source.ready = lambda: later.write_bytes(corpus.model.read_bytes())
    assert source.observe(Groups()) == N_CHUNK


def test_inputs_that_are_not_finite_are_told_with_the_tensors_name(corpus: Corpus) -> None:
    class Overflows(Groups):
        def __call__(self, seen: Activations) -> None:
            raise NonFiniteError("row 3 has NaN")

    with pytest.raises(InputError, match=rf"^{corpus.model.name}: inputs of {NAME}: row 3 has NaN\. The model overf"):
        WholeModel(corpus).observe(Overflows())


@pytest.mark.parametrize("other", [{"text": "x"}, {"n_tokens": 64}, {"n_ctx": 32}, {"type_name": "Q8_0"}])
def test_what_decides_the_moments_is_in_the_identity(other: dict[str, object], corpus: Corpus) -> None:
    changed = dataclasses.replace(corpus, **other)  # type: ignore[arg-type]
    assert WholeModel(changed).identity != WholeModel(corpus).identity
    assert WholeModel(dataclasses.replace(corpus, threads=2)).identity == WholeModel(corpus).identity
