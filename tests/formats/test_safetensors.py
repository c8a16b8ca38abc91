"""Safetensors headers: what the crate rejects is rejected, what it accepts reads the same, and every message helps."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from ggufkit.errors import CheckpointError, InputError
from ggufkit.formats.safetensors import DTYPE_BITS, SafetensorsFile, open_safetensors
from tests.formats.build import safetensors_bytes as packed
from tests.formats.build import tensor

TWO = {"a": tensor(0, 8), "b": tensor(8, 16)}
TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
FIELD_TWICE = b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def opened(tmp_path: Path, raw: bytes) -> SafetensorsFile:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    return open_safetensors(path)


def test_values_equal_those_that_the_library_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = {
        "f64": rng.normal(size=(3, 4)),
        "f32": rng.normal(size=(2, 3, 5)).astype(np.float32),
        "f16": rng.normal(size=(7, 2)).astype(np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3, np.float32),
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(stored, path, metadata={"format": "pt"})
    read = open_safetensors(path).tensors
    assert read.keys() == stored.keys()
    for name, ref in read.items():
        assert ref.shape == stored[name].shape
        rows = ref.rows(0, ref.n_rows)
        np.testing.assert_array_equal(rows.reshape(ref.shape), stored[name].astype(np.float32))


def test_bf16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 15, (4, 8), dtype=np.uint16)
    raw = packed({"a": tensor(0, 64, dtype="BF16", shape=[4, 8])}, bits.tobytes())
    rows = opened(tmp_path, raw).tensors["a"].rows(1, 3)
    np.testing.assert_array_equal(rows.view(np.uint32), bits[1:3].astype(np.uint32) << 16)


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_dtype_has_the_size_that_the_library_says(dtype: str) -> None:
    nbytes = DTYPE_BITS[dtype] * 8 // 8
    safetensors.deserialize(packed({"a": tensor(0, nbytes, dtype=dtype, shape=[8])}, bytes(nbytes)))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I64", "U8", "BOOL", "C64"])
def test_types_that_hold_no_weights_are_listed_and_refuse_to_be_read(tmp_path: Path, dtype: str) -> None:
    nbytes = DTYPE_BITS[dtype]
    ref = opened(tmp_path, packed({"a": tensor(0, nbytes, dtype=dtype, shape=[8])}, bytes(nbytes))).tensors["a"]
    assert ref.dtype == dtype
    with pytest.raises(InputError, match=rf"tensor a is stored as {dtype}.*Use the checkpoint in BF16"):
        ref.rows(0, 1)


BAD = {
    "empty file": (b"", "0 bytes are too few for a safetensors file"),
    "seven bytes": (b"\x01" * 7, "7 bytes are too few for a safetensors file"),
    "header length beyond the bound": (packed(b"{}", length=100_000_001), "claims 100000001 bytes, at most"),
    "header length 2^64-1": (packed(b"{}", length=2**64 - 1), "claims 18446744073709551615 bytes, at most"),
    "header beyond the file": (packed(b"{}", length=3), "claims 3 bytes, the file has 2 after it"),
    "header of no bytes": (packed(b""), "does not begin with"),
    "header begins with a blank": (packed(b" {}"), "does not begin with"),
    "header is a list": (packed(b"[]"), "does not begin with"),
    "header is not UTF-8": (packed(b'{"\xff":1}'), "not UTF-8 at byte 2"),
    "header is not JSON": (packed(b'{"a":'), "the header cannot be read"),
    "text after the header": (packed(b"{}{}"), "Extra data"),
    "too many tensors": (packed(b'{"a":"data_offsets"' + b',"data_offsets"' * 131_072 + b"}"), "lists 131073 tensors"),
    "nested deeply": (packed(b'{"a":' * 50_000), "nested too deeply"),
    "key twice": (packed(TWICE, bytes(4)), "key 'a' appears twice"),
    "field twice": (packed(FIELD_TWICE, bytes(4)), "key 'dtype' appears twice"),
    "surrogate in a name": (packed({"\ud800": tensor(0, 4)}, bytes(4)), "the name of a tensor is not Unicode"),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "__metadata__ is not an object of strings"),
    "metadata is a list": (packed({"__metadata__": []}), "__metadata__ is not an object of strings"),
    "tensor is a number": (packed({"a": 4}), "tensor a does not have exactly the fields"),
    "field absent": (packed({"a": {"dtype": "F32", "shape": []}}), "does not have exactly the fields"),
    "field unknown": (packed({"a": tensor(0, 4) | {"x": 0}}, bytes(4)), "does not have exactly the fields"),
    "dtype unknown": (packed({"a": tensor(0, 4, dtype="F31")}, bytes(4)), "unknown dtype F31. Known: F4"),
    "dtype lower case": (packed({"a": tensor(0, 4, dtype="f32")}, bytes(4)), "unknown dtype f32"),
    "dtype is a list": (packed({"a": tensor(0, 4, dtype=["F32"])}, bytes(4)), "unknown dtype"),
    "shape of fractions": (packed({"a": tensor(0, 4, shape=[1.0])}, bytes(4)), "number 1.0 where a whole"),
    "shape negative": (packed({"a": tensor(0, 4, shape=[-1])}, bytes(4)), "number -1 where a whole"),
    "shape minus zero": (packed(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "number -0 where"),
    "shape of bools": (packed({"a": tensor(0, 4, shape=[True])}, bytes(4)), "not a list of sizes"),
    "shape is NaN": (packed({"a": tensor(0, 4, shape=[float("nan")])}, bytes(4)), "number NaN where"),
    "shape beyond 64 bits": (packed({"a": tensor(0, 4, shape=[2**63, 2**63])}, bytes(4)), "beyond 64 bits"),
    "size of 30 digits": (packed({"a": tensor(0, 4, shape=[10**30])}, bytes(4)), "where a whole number"),
    "offsets reversed": (packed({"a": tensor(4, 0, shape=[1])}, bytes(4)), r"data_offsets \[4, 0\]"),
    "three offsets": (packed({"a": tensor(0, 4) | {"data_offsets": [0, 4, 8]}}, bytes(4)), "wanted .begin, end"),
    "span too short": (
        packed({"a": tensor(0, 12, shape=[4])}, bytes(12)), r"spans 12 bytes, shape \[4\] of F32 is 16"),
    "half a byte": (packed({"a": tensor(0, 1, dtype="F4", shape=[3])}, bytes(1)), "is 1 and 4 bits"),
    "does not begin at 0": (packed({"a": tensor(4, 8)}, bytes(8)), "begins at byte 4 of the data, wanted 0"),
    "hole": (packed({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "leaves a hole"),
    "overlap": (packed({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "overlaps the tensor before"),
    "cut short": (
        packed(TWO, bytes(15)), "tensor b ends at byte 16 of the data, the file has 15.*fetch the file again"),
    "bytes after the end": (packed(TWO, bytes(17)), "1 bytes follow the last tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_malformed_file_is_refused_as_the_library_refuses_it(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, raw)


# only ours: the crate lets these pass
STRICTER = {"field unknown", "key twice", "header begins with a blank"}


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, (raw, _) in BAD.items() if name not in STRICTER])
def test_library_refuses_the_same(raw: bytes) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(raw)


DISGUISED = {
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
    "HTML": (b"\n <!DOCTYPE html><html>", "HTML page"),
    "zip": (b"PK\x03\x04" + bytes(40), "PyTorch pickle"),
    "GGUF": (b"GGUF" + bytes(40), "is a GGUF file"),
    "server's error": (b'{"error":"Repository not found"}', "error message of a server"),
}


@pytest.mark.parametrize(("raw", "message"), DISGUISED.values(), ids=DISGUISED)
def test_what_is_something_else_is_called_by_its_name(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, raw)


def test_hostile_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, packed({"\x1b[2Ja\n" + "b" * 10_000: tensor(0, 4, dtype="?")}, bytes(4)))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    ref = opened(tmp_path, packed(TWO, bytes(16))).tensors["b"]
    with ref.file.path.open("r+b") as file:
        file.truncate(ref.offset + 4)
    with pytest.raises(InputError, match=r"ended at byte .*changed while it was read"):
        ref.rows(0, 1)


def test_tensors_keep_the_order_of_the_header(tmp_path: Path) -> None:
    header = json.dumps({"b": tensor(8, 16), "a": tensor(0, 8)}).encode()
    assert list(opened(tmp_path, packed(header, bytes(16))).tensors) == ["b", "a"]
