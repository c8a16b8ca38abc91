"""What a plan adds to types: metadata, float conversions, importance, fallbacks."""

import gguf
import pytest

from ggufkit.formats.model import KV, Hparams, Model, ModelTensor
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.fallback import SUBSTITUTES, fitting
from ggufkit.recipes.quantizable import Role, kept_reason, n_dims, role_of
from quant import quant_type

U32 = gguf.GGUFValueType.UINT32


def model(*tensors: ModelTensor, metadata: tuple[KV, ...] = ()) -> Model:
    return Model(Hparams("llama", 1, 256, 4, 4), metadata, tensors)


def matrix(name: str, shape: tuple[int, ...] = (4, 256), dtype: str = "BF16", **more: bool) -> ModelTensor:
    return ModelTensor(name, shape, dtype, (), **more)


def test_metadata_moves_its_two_entries_to_the_end_and_drops_those_of_a_split() -> None:
    entries = (KV("general.file_type", U32, 0), KV("split.count", U32, 3), KV("general.quantization_version", U32, 1))
    extra = KV("ggufkit.version", gguf.GGUFValueType.STRING, "0.1")
    plan = make_plan(
        model(matrix("output.weight"), metadata=(*entries, KV("x", U32, 1))), "Q6_K", extra_metadata=[extra]
    )
    assert [(kv.key, kv.value) for kv in plan.metadata] == [
        ("x", 1),
        ("general.quantization_version", 2),
        ("general.file_type", 18),
        ("ggufkit.version", "0.1"),
    ]


@pytest.mark.parametrize("target", ["F16", "BF16", "F32"])
def test_conversion_alone_keeps_what_converters_keep_in_f32(target: str) -> None:
    source = model(
        matrix("token_embd.weight"),
        matrix("blk.0.ffn_gate_inp.weight", keep_f32=True),
        matrix("blk.0.attn_norm.weight", (256,), keep_f32=True),
        matrix("blk.0.attn_q.bias", (256,), keep_f32=True),
    )
    types = {t.name: t.qtype.name for t in make_plan(source, target).tensors}
    assert types.pop("token_embd.weight") == target
    assert set(types.values()) == {"F32"}


def test_tensors_outside_the_layers_come_first_then_layers_by_number() -> None:
    names = ["blk.10.a.weight", "blk.9.b.weight", "token_embd.weight", "blk.9.a.weight", "output_norm.weight"]
    plan = make_plan(model(*(matrix(name) for name in names)), "Q8_0")
    assert [t.name for t in plan.tensors] == [
        "output_norm.weight", "token_embd.weight", "blk.9.a.weight", "blk.9.b.weight", "blk.10.a.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SUBSTITUTES)
def test_substitutes_fit_rows_of_32_and_are_no_smaller(name: str) -> None:
    wanted = quant_type(name)
    substitute, reason = fitting(wanted, 96)
    assert substitute.block_size == 32
    assert substitute.bpw >= wanted.bpw
    assert reason == f"96 columns, {name} needs a multiple of 256: {substitute} instead"
    assert fitting(wanted, 512) == (wanted, None)
    assert fitting(wanted, 100)[0].name == "F16"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("output.weight", Role.OUTPUT),
        ("blk.0.attn_output.weight", Role.ATTN_OUTPUT),
        ("blk.0.attn_qkv.weight", Role.ATTN_V),
        ("blk.3.ffn_down_exps.weight", Role.FFN_DOWN),
        ("blk.3.ffn_gate_shexp.weight", Role.FFN_GATE),
        ("token_embd.weight", Role.TOKEN_EMBD),
        ("rope_freqs.weight", Role.OTHER),
    ],
)
def test_roles(name: str, role: Role) -> None:
    assert role_of(name) is role


@pytest.mark.parametrize(
    ("tensor", "kept"),
    [
        (matrix("blk.0.attn_q.weight"), None),
        (matrix("blk.0.attn_q.weight", (1, 256)), "one row: kept"),
        (matrix("blk.0.attn_q.bias", (2, 256)), "not a weight matrix: kept"),
        (matrix("blk.0.ffn_gate_inp.weight"), "router: kept"),
        (matrix("position_embd.weight"), "small and sensitive: kept"),
    ],
)
def test_kept_tensors_say_why(tensor: ModelTensor, kept: str | None) -> None:
    assert kept_reason(tensor) == kept


def test_dimensions_are_counted_as_ggml_does() -> None:
    assert [n_dims(shape) for shape in ((5,), (1, 5), (2, 5), (1, 2, 5), (8, 1, 5), (1, 1, 1))] == [1, 1, 2, 2, 3, 1]
