"""A GGUF file as a model: the numbers, the entries that stay, and the types that are refused."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.errors import GgufError
from ggufkit.formats.gguf_source import REPLACED_KEYS, open_model
from tests.formats import build
from tests.formats.build import array, gguf_bytes, info, kv
from tests.formats.test_gguf_writer import Q4_0, write_llama
from tests.oracle import llama_quantize


def test_model_has_the_files_numbers_entries_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_llama(path, n_layer=2, n_expert=3, dtype=np.float16)
    model, theirs = open_model(path), gguf.GGUFReader(path)
    h = model.hparams
    assert (h.arch, h.n_layer, h.n_embd, h.n_head, h.n_head_kv, h.n_gqa) == ("llama", 2, 256, 4, 2, 2)
    assert (h.n_expert, h.n_expert_used, h.n_ctx_train, h.n_vocab) == (3, 2, 64, 32)
    assert (h.head_dim_k, h.head_dim_v) == (64, 64)
    kept = [key for key in theirs.fields if not key.startswith("GGUF.") and key not in REPLACED_KEYS]
    assert [kv.key for kv in model.metadata] == kept and "general.file_type" not in kept
    assert [t.name for t in model.tensors] == [t.name for t in theirs.tensors]
    for tensor, other in zip(model.tensors, theirs.tensors, strict=True):
        assert tensor.dtype == other.tensor_type.name
        assert tensor.keep_f32 == (len(tensor.shape) == 1)
        want = other.data.astype(np.float32).reshape(tensor.n_expert, tensor.n_rows, tensor.n_per_row)
        for expert in range(tensor.n_expert):
            np.testing.assert_array_equal(tensor.rows(expert, 0, tensor.n_rows), want[expert])


def test_quantized_file_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    source, quantized = tmp_path / "f32.gguf", tmp_path / "q4_0.gguf"
    write_llama(source)
    llama_quantize(source, quantized, Q4_0)
    with pytest.raises(GgufError, match=r"is Q\d_\w already; .* second loss.* pass --allow-requantize"):
        open_model(quantized)
    model = open_model(quantized, allow_requantize=True)
    tensor = next(t for t in model.tensors if t.dtype == "Q4_0")
    assert np.isfinite(tensor.rows(0, 0, 4)).all()


def test_fingerprint_follows_the_content_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_llama(path)
    first = open_model(path).source
    raw = bytearray(path.read_bytes())
    (tmp_path / "b.gguf").write_bytes(raw)
    assert open_model(tmp_path / "b.gguf").source == first
    raw[-20_000:] = np.random.default_rng(1).bytes(20_000)  # other weights of the same shapes
    (tmp_path / "b.gguf").write_bytes(raw)
    assert open_model(tmp_path / "b.gguf").source != first


def entries(**changes: bytes) -> list[bytes]:
    found = {
        "general.architecture": kv("general.architecture", build.STRING, "llama"),
        "embedding_length": kv("llama.embedding_length", build.U32, 32),
        "block_count": kv("llama.block_count", build.U32, 1),
        "head_count": kv("llama.attention.head_count", build.U32, 4),
    }
    return list((found | changes).values())


def opened(tmp_path: Path, parts: list[bytes], infos: list[bytes] | None = None, data: bytes = bytes(128)) -> object:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(parts, [info("w", [32], 0)] if infos is None else infos, data))
    return open_model(path)


def test_number_of_heads_of_each_layer_gives_the_largest(tmp_path: Path) -> None:
    heads = array("llama.attention.head_count_kv", build.I32, [0, 4, 2])
    model = opened(tmp_path, [*entries(), heads])
    assert model.hparams.n_head_kv == 4


@pytest.mark.parametrize(
    ("parts", "infos", "message"),
    [
        (entries()[1:], None, "general.architecture is missing"),
        (
            [kv("general.architecture", build.STRING, "\x1b[2J")],
            None,
            r"/model.gguf: \\x1b\[2J.embedding_length is missing",
        ),
        (entries()[:1], None, "llama.embedding_length is missing"),
        (entries(), [], "has no tensors"),
        (
            entries(head_count=kv("llama.attention.head_count", build.F32, 4.0)),
            None,
            "head_count is .4.0., wanted whole",
        ),
        (entries(head_count=kv("llama.attention.head_count", build.I32, -4)), None, "head_count is .-4., wanted whole"),
        (entries(head_count=array("llama.attention.head_count", build.I32, [])), None, r"head_count is \[\], wanted"),
        (
            entries(block_count=kv("llama.block_count", build.U64, 2**40)),
            None,
            "block_count is .1099511627776., wanted",
        ),
        (entries(), [info("w", [4, 2, 2, 2], 0)], r"tensor w has shape \[2, 2, 2, 4\]; weights have 1 to 3"),
        (entries(), [info("w", [32], 0, ggml_type=26)], "tensor w is stored as I32, which is not a type for weights"),
    ],
)
def test_file_that_is_no_model_is_refused(
    tmp_path: Path, parts: list[bytes], infos: list[bytes] | None, message: str
) -> None:
    with pytest.raises(GgufError, match=message):
        opened(tmp_path, parts, infos, b"" if infos == [] else bytes(128))
