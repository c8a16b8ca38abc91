"""The strongest oracle: the planned file, encoded with ggml's own encoder, is llama_model_quantize's file."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

import quant
from ggufkit.formats.model import KV, Hparams, Model, ModelTensor
from ggufkit.formats.tensor import SourceFile, TensorRef
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.mixtures import MIXTURES, mixture
from ggufkit.recipes.plan import PlannedTensor, QuantPlan
from tests.oracle import llama_quantize
from tests.recipes.narrow import F32Array, Narrow, importance_for, write_narrow

MODELS = {
    "dense": Narrow(n_layer=16, dtype="BF16"),
    "gqa4": Narrow(n_layer=9, n_gqa=4, dtype="F16"),
    "tied": Narrow(n_layer=8, n_gqa=2, is_tied=True),
    "fused": Narrow(arch="phi2", n_layer=10, n_ff=512, is_fused=True),
    "rows-of-288-and-100": Narrow(n_layer=8, n_embd=288, n_ff=100),
    "4-experts": Narrow(n_layer=8, n_expert=4, dtype="BF16", n_rows=2),
    "8-experts": Narrow(n_layer=16, n_gqa=4, n_expert=8, n_rows=2),
    "16-experts": Narrow(n_layer=8, n_gqa=8, n_expert=16, n_rows=2),
    "from-q8_0": Narrow(n_layer=8, dtype="Q8_0"),
    "70b": Narrow(n_layer=80, n_gqa=8, n_rows=2),
    "qwen2-72b": Narrow(arch="qwen2", n_layer=80, n_gqa=4, n_rows=2),
}
# building the grid that IQ1 searches takes ggml ten seconds, once a process
NAMES = [pytest.param(mix.name, marks=pytest.mark.slow if mix.name.startswith("IQ1") else ()) for mix in MIXTURES]
NEED_IMPORTANCE = ("Q2_K_S", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS")


def open_narrow(path: Path, narrow: Narrow) -> Model:
    reader = gguf.GGUFReader(path)
    file = SourceFile(path)
    tensors = []
    for t in reader.tensors:
        shape = tuple(int(n) for n in reversed(t.shape))
        ref = TensorRef(t.name, shape, t.tensor_type.name, file, int(t.data_offset), int(t.n_bytes))
        tensors.append(ModelTensor(t.name, shape, t.tensor_type.name, (ref,)))
    hparams = Hparams(
        narrow.arch, narrow.n_layer, narrow.n_embd, narrow.n_head, narrow.n_head // narrow.n_gqa, narrow.n_expert
    )
    metadata = []
    for field in reader.fields.values():
        if not field.name.startswith("GGUF."):
            item_type = field.types[1] if len(field.types) > 1 else None
            metadata.append(KV(field.name, field.types[0], field.contents(), item_type))
    return Model(hparams, tuple(metadata), tuple(tensors))


def encode(planned: PlannedTensor, importance: dict[str, F32Array] | None) -> bytes:
    tensor = planned.tensor
    if tensor.dtype == planned.qtype.name:
        return b"".join(ref.raw_rows(0, ref.n_rows).tobytes() for ref in tensor.parts)
    blocks = []
    for expert in range(tensor.n_expert):
        row = None
        if importance is not None and tensor.name in importance:
            row = np.atleast_2d(importance[tensor.name])[expert]
        w = tensor.rows(expert, 0, tensor.n_rows)
        blocks.append(quant.quantize(w, planned.qtype, importance=row, encoder=quant.Encoder.GGML))
    return b"".join(block.tobytes() for block in blocks)


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    model: Model
    importance: dict[str, F32Array]


@pytest.fixture(scope="module", params=MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    narrow = MODELS[request.param]
    path = write_narrow(tmp_path_factory.mktemp("narrow") / "model.gguf", narrow)
    return Source(path, open_narrow(path, narrow), importance_for(narrow))


@pytest.mark.parametrize("with_importance", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_llama_cpps(source: Source, name: str, with_importance: bool, tmp_path: Path) -> None:
    if not with_importance and name in NEED_IMPORTANCE:
        pytest.skip("refused without importance")
    importance = source.importance if with_importance else None
    plan = make_plan(source.model, name, importance=importance)
    llama_quantize(source.path, tmp_path / "wanted.gguf", mixture(name).ftype, importance)
    compare(plan, tmp_path / "wanted.gguf", importance)


def compare(plan: QuantPlan, path: Path, importance: dict[str, F32Array] | None) -> None:
    wanted = gguf.GGUFReader(path)
    assert [(t.name, t.qtype.name) for t in plan.tensors] == [(t.name, t.tensor_type.name) for t in wanted.tensors]
    assert [kv.key for kv in plan.metadata] == [f.name for f in wanted.fields.values() if "GGUF." not in f.name]
    assert plan.file_type == wanted.fields["general.file_type"].contents()
    assert plan.data_offset == wanted.data_offset
    assert plan.file_nbytes == path.stat().st_size
    data = path.read_bytes()
    for planned in plan.tensors:
        start = plan.data_offset + planned.offset
        assert encode(planned, importance) == data[start : start + planned.nbytes], planned.name
