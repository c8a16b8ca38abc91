"""GGUF headers that are written: other tools' headers come out again byte for byte, and gguf.GGUFReader reads them."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufkit.errors import GgufError
from ggufkit.formats import gguf_writer
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_writer import header_bytes, packed
from ggufkit.formats.model import KV
from tests.formats.test_gguf_reader import written
from tests.oracle import llama_quantize

T = gguf.GGUFValueType
Q4_0 = 2  # llama.h LLAMA_FTYPE_MOSTLY_Q4_0


def rewritten(path: Path, **changes: Any) -> bytes:
    """The header of `path`, written anew from what was read."""
    file = GgufFile.open(path)
    base = file.parts[0].data_offset
    rows = [(t.name, t.shape, int(gguf.GGMLQuantizationType[t.dtype]), t.offset - base) for t in file.tensors]
    return header_bytes(list(file.metadata.values()), rows, file.alignment)


def test_header_of_ggufs_writer_comes_out_again(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf")
    header = rewritten(path)
    assert path.read_bytes().startswith(header)
    assert len(header) == gguf.GGUFReader(path).data_offset


def test_header_of_llama_quantize_comes_out_again(tmp_path: Path) -> None:
    source, quantized = tmp_path / "f32.gguf", tmp_path / "q4_0.gguf"
    write_llama(source)
    llama_quantize(source, quantized, Q4_0)
    header = rewritten(quantized)
    assert quantized.read_bytes().startswith(header)
    assert len(header) == gguf.GGUFReader(quantized).data_offset


def write_llama(
    path: Path, *, n_layer: int = 1, n_embd: int = 256, n_expert: int = 0, dtype: type = np.float32
) -> None:
    """The smallest model that llama.cpp quantizes, with random weights; 2-D weights in `dtype`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_file_type(0)
    writer.add_block_count(n_layer)
    writer.add_context_length(64)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(2 * n_embd)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    if n_expert:
        writer.add_expert_count(n_expert)
        writer.add_expert_used_count(2)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(b"t%d" % i for i in range(29))])
    writer.add_token_scores([0.0] * 32)
    writer.add_token_types([2, 3, 3, *[1] * 29])
    rng = np.random.default_rng(0)
    stack = (n_expert,) if n_expert else ()
    suffix = "_exps" if n_expert else ""
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (32, n_embd), "output": (32, n_embd), "output_norm": (n_embd,)}
    for i in range(n_layer):
        shapes |= {f"blk.{i}.attn_norm": (n_embd,), f"blk.{i}.ffn_norm": (n_embd,)}
        shapes |= {f"blk.{i}.attn_{x}": (n_embd, n_embd) for x in ("q", "output")}
        shapes |= {f"blk.{i}.attn_{x}": (n_embd // 2, n_embd) for x in "kv"}
        shapes |= {f"blk.{i}.ffn_{x}{suffix}": (*stack, 2 * n_embd, n_embd) for x in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down{suffix}"] = (*stack, n_embd, 2 * n_embd)
        if n_expert:
            shapes[f"blk.{i}.ffn_gate_inp"] = (n_expert, n_embd)
    for name, shape in shapes.items():
        stored = np.float32 if len(shape) == 1 or "gate_inp" in name else dtype
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def whole(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = {
    T.UINT8: whole(8, False), T.INT8: whole(8, True), T.UINT16: whole(16, False), T.INT16: whole(16, True),
    T.UINT32: whole(32, False), T.INT32: whole(32, True), T.UINT64: whole(64, False), T.INT64: whole(64, True),
    T.FLOAT32: st.floats(width=32, allow_nan=False), T.FLOAT64: st.floats(allow_nan=False), T.BOOL: st.booleans(),
    T.STRING: texts,
}  # fmt: skip
keys = st.text("abcdefgh._", min_size=1, max_size=12)


@st.composite
def entries(draw: st.DrawFn) -> list[KV]:
    found = []
    for key in draw(st.lists(keys, unique=True, max_size=6)):
        kind = draw(st.sampled_from(list(VALUES)))
        if draw(st.booleans()):
            found.append(KV(key, T.ARRAY, draw(st.lists(VALUES[kind], min_size=1, max_size=5)), kind))
        else:
            found.append(KV(key, kind, draw(VALUES[kind])))
    return found


@settings(max_examples=60, deadline=None)
@given(metadata=entries(), shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), max_size=3))
def test_any_header_is_read_back_by_both_readers(
    tmp_path_factory: pytest.TempPathFactory, metadata: list[KV], shapes: list[list[int]]
) -> None:
    path = tmp_path_factory.mktemp("header") / "model.gguf"
    rows, data, offset = [], b"", 0
    for i, shape in enumerate(shapes):
        rows.append((f"t{i}", tuple(shape), 0, offset))
        data += bytes(-(-4 * math.prod(shape) // 32) * 32)
        offset = len(data)
    path.write_bytes(header_bytes(metadata, rows, 32) + data)
    file, theirs = GgufFile.open(path), gguf.GGUFReader(path)
    assert [(kv.key, kv.type, kv.item_type, kv.value) for kv in file.metadata.values()] == [
        (kv.key, kv.type, kv.item_type, kv.value) for kv in metadata
    ]
    assert {kv.key: theirs.fields[kv.key].contents() for kv in metadata} == {kv.key: kv.value for kv in metadata}
    assert [t.shape for t in file.tensors] == [tuple(reversed(t.shape.tolist())) for t in theirs.tensors]
    assert rewritten(path) + data == path.read_bytes()


@pytest.mark.parametrize(
    ("kv", "message"),
    [
        (KV("a", T.UINT8, 256), "metadata a cannot be written as UINT8"),
        (KV("a", T.UINT32, -1), "metadata a cannot be written as UINT32"),
        (KV("a", T.UINT32, "7"), "metadata a cannot be written as UINT32"),
        (KV("a", T.STRING, 7), "metadata a cannot be written as STRING"),
        (KV("a", T.STRING, "\ud800"), "metadata a cannot be written as STRING"),
        (KV("a", T.ARRAY, [1]), "metadata a cannot be written as ARRAY: items of type None"),
        (KV("a", T.ARRAY, [1, "x"], T.INT32), "metadata a cannot be written as ARRAY"),
    ],
)
def test_value_that_its_type_cannot_hold_is_refused(kv: KV, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        header_bytes([kv], [], 32)


def test_names_that_are_too_long_or_not_unique_are_refused() -> None:
    with pytest.raises(GgufError, match="has a name of 64 bytes, GGUF allows 63"):
        header_bytes([], [("n" * 64, (1,), 0, 0)], 32)
    with pytest.raises(GgufError, match="tensor a would be written twice"):
        header_bytes([], [("a", (1,), 0, 0), ("a", (1,), 0, 32)], 32)
    with pytest.raises(GgufError, match="key k would be written twice"):
        header_bytes([KV("k", T.UINT8, 1), KV("k", T.UINT8, 1)], [], 32)


def test_alignment_must_be_the_one_that_is_stated() -> None:
    with pytest.raises(GgufError, match="general.alignment says 32, the data is aligned to 64 bytes"):
        header_bytes([], [], 64)
    assert len(header_bytes([KV("general.alignment", T.UINT32, 64)], [], 64)) % 64 == 0


def test_strings_that_were_packed_give_the_same_header_and_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = gguf.GGUFValueType
    rows = [KV("a", kind.ARRAY, ["x", "", "é"], kind.STRING), KV("b", kind.ARRAY, [1, 2], kind.INT32)]
    wanted = header_bytes(rows, [], 32)
    made = [packed(kv) for kv in rows]
    assert made == rows and made[1] is rows[1]
    monkeypatch.setattr(gguf_writer, "_strings", None)
    assert header_bytes(made, [], 32) == wanted
    with pytest.raises(GgufError, match="metadata a cannot be written"):
        header_bytes(rows, [], 32)


def test_half_a_character_cannot_be_packed() -> None:
    kind = gguf.GGUFValueType
    with pytest.raises(GgufError, match="metadata a cannot be written as ARRAY"):
        packed(KV("a", kind.ARRAY, ["\ud800"], kind.STRING))
