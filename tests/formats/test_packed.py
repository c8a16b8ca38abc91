"""Weights of few bits: decoded as the format's own library does, whatever slab; parts that do not fit are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed import PackedRef, unpack
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
    assert len(lines) == 1 and lines[0].startswith("1 tensors were quantized already")
    assert np.array_equal(ref.rows(0, ref.n_rows), wanted)
    for start, stop in ((0, 1), (3, 4), (5, 23), (ref.n_rows - 1, ref.n_rows)):
        assert np.array_equal(ref.rows(start, stop), wanted[start:stop])
        assert np.array_equal(ref.sliced(start, stop).rows(0, stop - start), wanted[start:stop])
    assert np.array_equal(ref.columns(2, 9), wanted[:, 2:9].T)


@pytest.mark.parametrize("name", FACTS)
def test_a_part_that_is_absent_is_named(name: str, tmp_path: Path) -> None:
    main = {"weight", "weight_packed", "qweight"}
    optional = {"g_idx", "weight_zero_point", "weight_shape", "weight_global_scale"}
    for part in FACTS[name]["dtypes"].keys() - main - optional:
        if "quant_state" in part:
            continue  # without it, nothing says that these bytes are weights
        with pytest.raises(CheckpointError, match=r"x\.(weight_scale|qzeros|scales|weight\.\w+)"):
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
