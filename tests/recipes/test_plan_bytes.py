"""The strongest oracle: with ggml's own encoder, `quantize` writes llama_model_quantize's file, header and all."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import quant
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.imatrix import Imatrix, ImatrixEntry
from ggufkit.formats.imatrix_file import write_imatrix
from ggufkit.recipes.mixtures import MIXTURES, mixture
from ggufkit.workflows.quantize import quantize
from tests.oracle import llama_quantize
from tests.recipes.narrow import F32Array, Narrow, importance_for, write_narrow

MODELS = {
    "dense": Narrow(n_layer=16, dtype="BF16"),
    "gqa4": Narrow(n_layer=9, n_gqa=4, dtype="F16"),
    "tied": Narrow(n_layer=8, n_gqa=2, is_tied=True),
    "fused": Narrow(arch="phi2", n_layer=10, n_ff=512, is_fused=True),
    "rows-of-288-and-100": Narrow(n_layer=8, n_embd=288, n_ff=100),
    "one-row": Narrow(n_layer=8, n_rows=1),
    "4-experts": Narrow(n_layer=8, n_expert=4, dtype="BF16", n_rows=2),
    "8-experts": Narrow(n_layer=16, n_gqa=4, n_expert=8, n_rows=2),
    "16-experts": Narrow(n_layer=8, n_gqa=8, n_expert=16, n_rows=2),
    "from-q8_0": Narrow(n_layer=8, dtype="Q8_0"),
    "70b": Narrow(n_layer=80, n_gqa=8, n_rows=2),
    "qwen2-72b": Narrow(arch="qwen2", n_layer=80, n_gqa=4, n_rows=2),
}
NEED_IMPORTANCE = ("Q2_K_S", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS")
# models that differ from others in a few mixtures only
ONLY = {
    "one-row": ("F16", "Q8_0", "Q4_K_M"),
    "from-q8_0": ("F32", "BF16", "Q8_0", "Q4_K_M", "MXFP4_MOE"),
    "70b": ("Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_XXS", "IQ3_XS", "IQ3_M", "IQ4_XS"),
    "qwen2-72b": ("Q3_K_S", "Q4_K_M", "Q5_K_M", "IQ3_S"),
}


def cases() -> Iterator[object]:
    for model in MODELS:
        for name in ONLY.get(model, tuple(mix.name for mix in MIXTURES)):
            # building the grid that IQ1 searches takes ggml ten seconds, once a process
            marks = pytest.mark.slow if name.startswith("IQ1") else ()
            if name not in NEED_IMPORTANCE:
                yield pytest.param(model, name, False, id=f"{model}-{name}", marks=marks)
            yield pytest.param(model, name, True, id=f"{model}-{name}-importance", marks=marks)


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    imatrix: Path
    importance: dict[str, F32Array]


@pytest.fixture(scope="module")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    return functools.cache(lambda model: make_source(MODELS[model], tmp_path_factory.mktemp("narrow")))


def make_source(narrow: Narrow, folder: Path) -> Source:
    path = write_narrow(folder / "model.gguf", narrow)
    importance = importance_for(narrow)
    rows = {name: np.atleast_2d(values) for name, values in importance.items()}
    entries = {name: ImatrixEntry(sums, np.ones(len(sums), np.float32)) for name, sums in rows.items()}
    write_imatrix(folder / "imatrix.gguf", Imatrix(("text",), 1, 512, entries))
    return Source(path, folder / "imatrix.gguf", importance)


@pytest.mark.parametrize(("model", "name", "with_importance"), list(cases()))
def test_file_is_llama_cpps(
    source_of: Callable[[str], Source], model: str, name: str, with_importance: bool, tmp_path: Path
) -> None:
    source = source_of(model)
    got, wanted = tmp_path / "got.gguf", tmp_path / "wanted.gguf"
    llama_quantize(source.path, wanted, mixture(name).ftype, source.importance if with_importance else None)
    settings = QuantizeSettings(
        source=source.path,
        output=got,
        recipe=name,
        imatrix=source.imatrix if with_importance else None,
        encoder=quant.Encoder.GGML,
        threads=1,
        provenance=False,
    )
    quantize(settings)
    if got.read_bytes() != wanted.read_bytes():
        explain(got, wanted)


def explain(got_path: Path, wanted_path: Path) -> None:
    """Fail with the first thing that differs: types and order, metadata, a tensor's bytes, or the rest."""
    got, wanted = GgufFile.open(got_path), GgufFile.open(wanted_path)
    assert [(t.name, t.dtype, t.shape) for t in got.tensors] == [(t.name, t.dtype, t.shape) for t in wanted.tensors]
    assert list(got.metadata) == list(wanted.metadata)
    for ours, theirs in zip(got.tensors, wanted.tensors, strict=True):
        assert ours.raw_rows(0, ours.n_rows).tobytes() == theirs.raw_rows(0, theirs.n_rows).tobytes(), ours.name
    pytest.fail("types, metadata keys and tensors are equal; the header or the padding differs")
