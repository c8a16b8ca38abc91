"""Weights of few bits: decoded as the format's own library does, whatever slab; parts that do not fit are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed import PackedRef, unpack
from ggufkit.formats.packed.ref import codes_of
from ggufkit.formats.safetensors import open_safetensors

PACKED = np.load(Path(__file__).parents[1] / "data" / "packed" / "packed.npz")
FACTS = json.loads(str(PACKED["facts"]))


def written(folder: Path, name: str, *, drop: str = "", shapes: dict[str, list[int]] | None = None) -> dict:
    """The tensors of a case in a .safetensors file, under model.x."""
    facts, header, data = FACTS[name], {}, b""
    for key, dtype in facts["dtypes"].items():
        if key == drop:
            continue
        raw = PACKED[f"{name}/{key}"].tobytes()
        shape = (shapes or {}).get(key, facts["shapes"][key])
        header[f"x.{key}"] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return open_safetensors(path).tensors


@pytest.mark.parametrize("name", FACTS)
def test_weights_are_those_of_the_formats_own_library(name: str, tmp_path: Path) -> None:
    wanted = PACKED[f"{name}/decoded"]
    refs, lines = unpack(written(tmp_path, name), FACTS[name]["config"])
    (ref,) = refs
    assert isinstance(ref, PackedRef) and ref.name == "x.weight" and ref.shape == wanted.shape
    kept = "are MXFP4 already" if name == "mxfp4" else "were quantized already"
    assert len(lines) == 1 and lines[0].startswith(f"1 tensors {kept}")
    assert np.array_equal(ref.rows(0, ref.n_rows), wanted)
    for start, stop in ((0, 1), (3, 4), (5, 23), (ref.n_rows - 1, ref.n_rows)):
        assert np.array_equal(ref.rows(start, stop), wanted[start:stop])
        assert np.array_equal(ref.sliced(start, stop).rows(0, stop - start), wanted[start:stop])
    assert np.array_equal(ref.columns(2, 9), wanted[:, 2:9].T)


@pytest.mark.parametrize("name", FACTS)
def test_a_part_that_is_absent_is_named(name: str, tmp_path: Path) -> None:
    main = {"weight", "weight_packed", "qweight"}
    optional = {"g_idx", "weight_shape", "weight_format", "input_scale"}
    for part in FACTS[name]["dtypes"].keys() - main - optional:
        if "quant_state" in part or ("weight" in FACTS[name]["dtypes"] and FACTS[name]["dtypes"]["weight"] == "I8"):
            continue  # without it, nothing says that these bytes are weights
        with pytest.raises(CheckpointError, match=rf"x\.{part}|x\.weight_scale"):
            unpack(written(tmp_path, name, drop=part), FACTS[name]["config"])


@pytest.mark.parametrize("name", FACTS)
def test_a_part_of_another_shape_is_refused(name: str, tmp_path: Path) -> None:
    shapes = FACTS[name]["shapes"]
    for part in shapes.keys() - {"weight", "weight_packed", "qweight", "weight_shape", "weight_global_scale"}:
        if len(shapes[part]) != 2 or "quant" in part:
            continue
        turned = {part: shapes[part][::-1]}
        if turned[part] == shapes[part]:
            continue
        with pytest.raises(CheckpointError, match="shape"):
            unpack(written(tmp_path, name, shapes=turned), FACTS[name]["config"])


def test_plain_weights_are_left_alone(tmp_path: Path) -> None:
    tensors = written(tmp_path, "fp8 whole", drop="weight")
    refs, lines = unpack(tensors, {"quant_method": "fp8"})
    assert refs == list(tensors.values()) and lines == []


def test_words_of_older_files_are_padded(tmp_path: Path) -> None:
    """In older compressed-tensors no number reaches from one word into the next: ten of three bits, two bits lost."""
    name = "integers of 3 bits with zeros"
    (ref,) = unpack(written(tmp_path, name), FACTS[name]["config"])[0]
    packed = ref.packed
    words = packed.codes.raw_rows(0, 24).view(np.uint32)
    codes = codes_of(words.T, 3, 0, 96).T
    zeros = codes_of(packed.zeros.raw_rows(0, packed.zeros.n_rows).view(np.uint32), 3, 0, 24)
    tensors = {
        "x.weight_packed": (padded(codes), "I32"),
        "x.weight_zero_point": (np.ascontiguousarray(padded(zeros.T).T), "I32"),
        "x.weight_scale": (packed.scales.rows(0, 24), "F32"),
        "x.weight_shape": (np.array([24, 96]), "I64"),
    }
    (again,) = unpack(stored(tmp_path / "old.safetensors", tensors), FACTS[name]["config"])[0]
    for start, stop in ((0, 24), (7, 19), (23, 24)):
        assert np.array_equal(again.rows(start, stop), PACKED[f"{name}/decoded"][start:stop])


def padded(codes: np.ndarray) -> np.ndarray:
    n_words = -(-codes.shape[1] // 10)
    wide = np.zeros((len(codes), n_words * 10), dtype=np.uint32)
    wide[:, : codes.shape[1]] = codes
    shifts = np.arange(10, dtype=np.uint32) * 3
    return np.bitwise_or.reduce(wide.reshape(len(codes), n_words, 10) << shifts, axis=2).view(np.int32)


def stored(path: Path, tensors: dict[str, tuple[np.ndarray, str]]) -> dict:
    """Arrays in a .safetensors file."""
    header, data = {}, b""
    for key, (values, dtype) in tensors.items():
        raw = values.tobytes()
        header[key] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return open_safetensors(path).tensors


def test_columns_of_groups_in_no_order(tmp_path: Path) -> None:
    """weight_g_idx says which group a column belongs to (actorder)."""
    name = "integers of 4 bits"
    (plain,) = unpack(written(tmp_path, name), FACTS[name]["config"])[0]
    order = np.random.default_rng(5).permutation(plain.n_per_row)
    packed = plain.packed
    codes = codes_of(packed.codes.raw_rows(0, 24).view(np.uint32).T, 4, 0, plain.n_per_row).T[:, order]
    words = np.bitwise_or.reduce(
        codes.astype(np.uint32).reshape(24, -1, 8) << (4 * np.arange(8, dtype=np.uint32)), axis=2
    )
    tensors = {
        "x.weight_packed": (words.view(np.int32), "I32"),
        "x.weight_scale": (packed.scales.rows(0, 24), "F32"),
        "x.weight_g_idx": ((order // 32).astype(np.int32), "I32"),
    }
    (moved,) = unpack(stored(tmp_path / "moved.safetensors", tensors), FACTS[name]["config"])[0]
    assert np.array_equal(moved.rows(0, 24), plain.rows(0, 24)[:, order])


def test_each_matrix_has_the_bits_of_its_group(tmp_path: Path) -> None:
    """Several config_groups, and GPTQ whose bits differ from matrix to matrix."""
    groups = {f"group_{i}": FACTS[name]["config"]["config_groups"]["group_0"]
              for i, name in enumerate(("integers of 8 bits", "integers of 2 bits", "integers of 4 bits"))}  # fmt: skip
    config = {"quant_method": "compressed-tensors", "config_groups": groups}
    for name in ("integers of 4 bits", "integers of 2 bits", "integers of 8 bits"):
        (ref,) = unpack(written(tmp_path, name), config)[0]
        assert np.array_equal(ref.rows(0, 24), PACKED[f"{name}/decoded"])
    for bits in (2, 3, 8):
        name = f"gptq {bits}, of AutoGPTQ"
        (ref,) = unpack(written(tmp_path, name), {"quant_method": "gptq", "bits": 4})[0]
        assert np.array_equal(ref.rows(0, ref.n_rows), PACKED[f"{name}/decoded"])


def test_what_is_said_to_be_there_must_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.g_idx is absent"):
        unpack(written(tmp_path, "gptq 3, of AutoGPTQ", drop="g_idx"), FACTS["gptq 3, of AutoGPTQ"]["config"])
    with pytest.raises(CheckpointError, match="fit no group"):
        unpack(written(tmp_path, "integers of 3 bits"), FACTS["integers of 8 bits"]["config"])
