"""What is asked of gradients: the tensors of the model and no others, as much text as their tape may take."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ggufkit.fitting import weighing
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import shapes_of, taped_chunks, taped_tokens
from ggufkit.fitting.couplings import groups_of
from ggufkit.fitting.weighing import gradient_settings, weigher
from tests.recipes.shapes import Shape, model_of

MODEL = model_of(Shape("llama", 2, 256, 512, 8, 2, 4000, n_expert=4))


def test_layer_by_layer_every_fitted_tensor_is_looked_at(tmp_path: Path) -> None:
    source: Any = SimpleNamespace(identity="these chunks")
    evidence: Any = SimpleNamespace(groups=groups_of(MODEL), keep_together=dict)
    found = gradient_settings(MODEL, source, tmp_path, 3, evidence)
    assert [name for name in shapes_of(MODEL) if not found.wants(name)] == []
    assert not found.wants("blk.0.attn_norm.weight")
    assert (found.n_ctx, found.max_chunks) == (taped_tokens(MODEL, by_layer=True), taped_chunks(MODEL))
    assert (found.folder, found.threads) == (tmp_path, 3)
    assert found.groups["blk.0.attn_q.weight"] == 256 and "token_embd.weight" in found.groups
    other: Any = SimpleNamespace(identity="other chunks")
    assert gradient_settings(MODEL, other, tmp_path, 3, evidence).identity != found.identity


def test_in_the_whole_model_the_corpus_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(weighing, "measure_weights", lambda *given, **named: seen.append((given, named)))
    corpus = Corpus(Path("x.gguf"), "text")
    weigher(corpus, MODEL, groups_of(MODEL))(print)
    ((given, named),) = seen
    assert given[0] is corpus and given[1]("blk.1.ffn_up_exps.weight") and given[2] is print
    assert named == {"n_ctx": taped_tokens(MODEL), "max_chunks": taped_chunks(MODEL), "groups": groups_of(MODEL)}
