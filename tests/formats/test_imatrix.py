"""Importance files: llama-imatrix's bytes, llama-quantize's numbers, and no other model's evidence."""

import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import quant
from ggufkit.errors import ImatrixError
from ggufkit.formats.gguf_source import open_model
from ggufkit.formats.imatrix import Imatrix, ImatrixEntry
from ggufkit.formats.imatrix_file import read_imatrix, write_imatrix
from ggufkit.formats.model import Hparams, Model, ModelTensor
from tests.formats import build
from tests.formats.build import array, gguf_bytes, info, kv, legacy_imatrix
from tests.formats.test_gguf_writer import write_llama
from tests.oracle import llama_quantize

DATA = Path(__file__).parents[1] / "data"
TRAINED = DATA / "tiny-mixtral.imatrix.gguf"  # made by llama-imatrix, like the two files of stories260K
DOWN = "blk.0.ffn_down_exps.weight"


def model_of(shapes: dict[str, tuple[int, ...]]) -> Model:
    tensors = tuple(ModelTensor(name, shape, "F32", ()) for name, shape in shapes.items())
    n_layer = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("blk.")), default=0)
    return Model(Hparams("llama", n_layer, 4, 1, 1), (), tensors)


def fitting(imatrix: Imatrix) -> dict[str, tuple[int, ...]]:
    """Shapes of a model that `imatrix` belongs to; four rows a matrix."""
    return {
        name: (len(e.sums), 4, e.sums.shape[1]) if len(e.sums) > 1 else (4, e.sums.shape[1])
        for name, e in imatrix.entries.items()
    }


def test_file_of_llama_imatrix_is_read(tmp_path: Path) -> None:
    imatrix = read_imatrix(TRAINED)
    assert (imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size) == (("calibration.txt",), 526, 512)
    assert len(imatrix.entries) == 32
    down = imatrix.entries[DOWN]
    assert down.sums.shape == (8, 256) and down.counts.shape == (8,)
    stored = {t.name: t.data for t in gguf.GGUFReader(TRAINED).tensors}
    for name, entry in imatrix.entries.items():
        np.testing.assert_array_equal(entry.sums, stored[f"{name}.in_sum2"].reshape(entry.sums.shape))
        np.testing.assert_array_equal(entry.counts, stored[f"{name}.counts"].reshape(-1))


def test_file_of_llama_imatrix_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "again.gguf", read_imatrix(TRAINED))
    assert (tmp_path / "again.gguf").read_bytes() == TRAINED.read_bytes()


def test_importance_is_the_mean_in_float32_with_the_count_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sums, counts = rng.random((4, 6), dtype=np.float32) * 1e5, np.array([3, 0, 7.5, 16777216], np.float32)
    got = ImatrixEntry(sums, counts).importance()
    assert got.dtype == np.float32
    for j, count in enumerate((3, 0, 8, 16777216)):  # lround takes halves away from zero
        for i in range(6):
            want = np.float32(1) if count == 0 else np.float32(sums[j, i] / np.float32(count))
            assert got[j, i] == want


def test_both_formats_of_one_run_of_llama_imatrix_hold_the_same_importance() -> None:
    legacy, current = (read_imatrix(DATA / f"stories260K.imatrix.{suffix}") for suffix in ("dat", "gguf"))
    assert legacy.datasets == current.datasets == ("calibration.txt",)
    assert legacy.chunk_count == current.chunk_count and (legacy.chunk_size, current.chunk_size) == (0, 256)
    assert legacy.entries.keys() == current.entries.keys() and len(current.entries) == 5 * 7
    for name in current.entries:  # the legacy format stores means times chunks, so the last bit may differ
        np.testing.assert_allclose(legacy.importance_of(name), current.importance_of(name), rtol=3e-7)


def test_legacy_file_is_read_and_cut_into_experts(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    values = [float(i) for i in range(8)]
    trailer = struct.pack("<ii", 12, 5) + b"a.txt"
    path.write_bytes(legacy_imatrix([("blk.0.x_exps.weight", 4, values), ("blk.0.y.weight", 0, [2.0, 3.0])], trailer))
    imatrix = read_imatrix(path)
    assert (imatrix.datasets, imatrix.chunk_count) == (("a.txt",), 12)
    model = model_of({"blk.0.x_exps.weight": (2, 5, 4), "blk.0.y.weight": (5, 2)})
    fitted = imatrix.check_matches(model)
    np.testing.assert_array_equal(fitted.importance_of("blk.0.x_exps.weight", 1), np.float32([1, 1.25, 1.5, 1.75]))
    # no calls: llama-quantize takes the values as they are
    np.testing.assert_array_equal(fitted.importance_of("blk.0.y.weight"), np.float32([2, 3]))
    assert fitted.importance_of("output.weight") is None


def test_llama_quantize_gives_the_bytes_that_our_importance_gives(tmp_path: Path) -> None:
    """The numbers reach llama_model_quantize through its own parameters, so equal bytes mean equal numbers."""
    source, quantized, path = tmp_path / "f32.gguf", tmp_path / "q2_k.gguf", tmp_path / "imatrix.gguf"
    write_llama(source, n_expert=3)
    model, rng = open_model(source), np.random.default_rng(0)
    evidence = {
        t.name: ImatrixEntry(
            rng.random((t.n_expert, t.n_per_row), dtype=np.float32) * 1e4, rng.integers(0, 900, t.n_expert).astype("f4")
        )
        for t in model.tensors
        if len(t.shape) > 1
    }
    write_imatrix(path, Imatrix(("text",), 1, 512, evidence))
    imatrix = read_imatrix(path).check_matches(model)
    llama_quantize(source, quantized, 10, {n: e.importance() for n, e in imatrix.entries.items()})
    compared = set()
    stored = {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(quantized).tensors}
    for tensor in model.tensors:
        name, raw = stored[tensor.name]
        if name not in ("Q2_K", "Q3_K"):
            continue
        ours = [
            quant.quantize(
                tensor.rows(e, 0, tensor.n_rows), quant.quant_type(name),
                importance=imatrix.importance_of(tensor.name, e), encoder=quant.Encoder.GGML,
            )
            for e in range(tensor.n_expert)
        ]  # fmt: skip
        assert np.concatenate(ours).tobytes() == raw
        compared.add(tensor.name)
    assert {"blk.0.ffn_up_exps.weight", "blk.0.attn_q.weight"} <= compared


def test_importance_of_another_model_is_refused() -> None:
    imatrix = read_imatrix(TRAINED)
    shapes = fitting(imatrix)
    imatrix.check_matches(model_of(shapes))
    with pytest.raises(ImatrixError, match=r"no tensor of this llama model; it begins with blk.0.attn_k.weight"):
        imatrix.check_matches(model_of({"other": (4, 256)}))
    with pytest.raises(ImatrixError, match="ffn_down_exps.weight has 2048 values in 8 matrices, .* wants 1024 in 4"):
        imatrix.check_matches(model_of(shapes | {DOWN: (4, 4, 256)}))
    with pytest.raises(ImatrixError, match=r"attn_q.weight has 256 values in 1 matrices, this model wants 512 in 1"):
        imatrix.check_matches(model_of(shapes | {"blk.0.attn_q.weight": (4, 512)}))
    odd = {name: shape for name, shape in shapes.items() if name != "blk.2.attn_k.weight"}
    with pytest.raises(ImatrixError, match=r"entry for blk.2.attn_k.weight, which this model does not have"):
        imatrix.check_matches(model_of(odd))


def test_blocks_behind_the_last_are_left_out_with_a_note() -> None:
    """A next-token block that the conversion dropped."""
    imatrix = read_imatrix(TRAINED)
    shapes = {name: shape for name, shape in fitting(imatrix).items() if not name.startswith("blk.3.")}
    fitted = imatrix.check_matches(model_of(shapes))
    assert set(fitted.entries) == set(shapes) < set(imatrix.entries)
    assert len(fitted.notes) == 1 and "8 tensors in blocks from 3 on is left out, blk.3." in fitted.notes[0]
    assert not imatrix.check_matches(model_of(fitting(imatrix))).notes


def test_embedding_that_does_not_fit_is_left_out() -> None:
    one = ImatrixEntry(np.ones((1, 4), np.float32), np.ones(1, np.float32))
    imatrix = Imatrix((), 1, 1, {"token_embd.weight": one, "blk.0.attn_q.weight": one})
    fitted = imatrix.check_matches(model_of({"token_embd.weight": (9, 8), "blk.0.attn_q.weight": (4, 4)}))
    assert list(fitted.entries) == ["blk.0.attn_q.weight"]


def gguf_imatrix(
    sums: bytes = np.ones(4, "<f4").tobytes(), counts: bytes = np.ones(1, "<f4").tobytes(), *,
    sums_ne: tuple[int, ...] = (4,), counts_ne: tuple[int, ...] = (1,), suffix: str = ".counts",
    keys: tuple[str, ...] = ("chunk_count", "chunk_size"), ggml_type: int = 0,
) -> bytes:  # fmt: skip
    entries = [array("imatrix.datasets", build.STRING, ["x"]), *(kv(f"imatrix.{k}", build.U32, 1) for k in keys)]
    stride = -(-len(sums) // 32) * 32
    infos = [info("w.in_sum2", sums_ne, 0, ggml_type=ggml_type), info(f"w{suffix}", counts_ne, stride)]
    return gguf_bytes(entries, infos, sums.ljust(stride, b"\0") + counts.ljust(32, b"\0"))


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


BAD = {
    "empty": (b"", "the number of entries at byte 0 wants 4 bytes, 0 are left"),
    "HTML": (b"<!doctype html>", "HTML page"),
    "no entries": (legacy_imatrix([]), "0 entries"),
    "text": (b"this is no importance file", "not an importance file of llama.cpp, or it is cut short"),
    "legacy, cut short": (legacy_imatrix([("w", 1, [1.0] * 8)])[:-1], "the values of w at byte 17 wants 32 bytes, 31"),
    "legacy, negative length": (legacy_imatrix([("w", 1, [])])[:-4] + b"\xff" * 4, "values of w .* wants -4 bytes"),
    "legacy, no values": (legacy_imatrix([("w", 1, [])]), r"sums of shape \(1, 0\)"),
    "legacy, twice": (legacy_imatrix([("w", 1, [1.0])] * 2), "w appears twice"),
    "legacy, NaN": (legacy_imatrix([("w", 1, [1.0, float("nan")])]), r"w: sum \[0, 1\] is nan, wanted a number from 0"),
    "GGUF, cut short": (gguf_imatrix()[:-32], "the file has .* cut short"),
    "GGUF model": (gguf_bytes([], [info("w", [1], 0)], bytes(32)), "is a GGUF file without importance"),
    "negative sum": (gguf_imatrix(floats(1, 1, -2, 1)), r"w: sum \[0, 2\] is -2.0, wanted a number from 0"),
    "infinite sum": (gguf_imatrix(floats(1, 1, np.inf, 1)), r"w: sum \[0, 2\] is inf"),
    "NaN count": (gguf_imatrix(counts=floats(np.nan)), r"w: count \[0\] is nan"),
    "negative count": (gguf_imatrix(counts=floats(-1)), r"w: count \[0\] is -1.0"),
    "count for every column": (
        gguf_imatrix(counts=floats(1, 1, 1, 1), counts_ne=(4,)), r"w has 4 counts and sums of shape \[4\]; wanted"),
    "count lacking": (
        gguf_imatrix(floats(*range(8)), sums_ne=(4, 2)), r"w has 1 counts and sums of shape \[2, 4\]"),
    "counts absent": (gguf_imatrix(suffix=".other"), "w has no counts"),
    "sums in F16": (gguf_imatrix(bytes(8), ggml_type=1), "w is stored as F16 and F32, wanted F32"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_malformed_file_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(raw)
    with pytest.raises(ImatrixError, match=message):
        read_imatrix(path)


@pytest.mark.parametrize("entries", [
    [], [kv("imatrix.datasets", build.STRING, "x")], [array("imatrix.datasets", build.U32, [1])],
    [kv("imatrix.chunk_count", build.STRING, "x")], [kv("imatrix.chunk_size", build.I32, -1)],
])  # fmt: skip
def test_what_is_said_of_the_text_may_be_absent_or_odd(entries: list[bytes], tmp_path: Path) -> None:
    infos = [info("w.in_sum2", (4,), 0), info("w.counts", (1,), 32)]
    (tmp_path / "i.gguf").write_bytes(gguf_bytes(entries, infos, floats(1, 1, 1, 1).ljust(32, b"\0") + floats(1)))
    imatrix = read_imatrix(tmp_path / "i.gguf")
    assert (imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size) == ((), 0, 0)
    assert list(imatrix.entries) == ["w"]


@pytest.mark.parametrize("more", [b"", b"\1", bytes(9), b"\1\0\0\0\xff", b"\1\0\0\0\1\0\0\0\xff", b"\xff" * 8])
def test_bytes_behind_the_end_of_a_legacy_file_are_noted(more: bytes, tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(legacy_imatrix([("w", 1, [1.0])], more))
    imatrix = read_imatrix(tmp_path / "i.dat")
    assert list(imatrix.entries) == ["w"] and imatrix.chunk_count in (0, 1)
    assert len(imatrix.notes) == bool(more) and all("bytes follow the end" in note for note in imatrix.notes)


def test_bad_evidence_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    good = read_imatrix(TRAINED)
    bad = ImatrixEntry(np.full((1, 4), np.nan, np.float32), np.ones(1, np.float32))
    with pytest.raises(ImatrixError, match=r"w: sum \[0, 0\] is nan"):
        write_imatrix(path, replace(good, entries={"w": bad}))
    assert list(tmp_path.iterdir()) == []
