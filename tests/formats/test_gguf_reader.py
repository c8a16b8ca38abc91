"""GGUF headers: gguf.GGUFReader reads the same, and every way of being wrong is one GgufError that says so."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.errors import GgufError
from ggufkit.formats.gguf_cursor import GgufArray
from ggufkit.formats.gguf_reader import GgufFile
from quant._ggml import library_path
from tests.formats import build
from tests.formats.build import array, info, kv
from tests.formats.build import gguf_bytes as packed

ONE = info("a", [8], 0)
TWO = [info("a", [8], 0), info("b", [4, 2], 32)]
ARCH = kv("general.architecture", build.STRING, "llama")


def opened(tmp_path: Path, raw: bytes) -> GgufFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    return GgufFile.open(path)


def written(path: Path) -> Path:
    """A file with every type of value and several types of tensor, by gguf's own writer."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (("uint8", 255), ("int8", -3), ("uint16", 65535), ("int16", -300), ("uint32", 2**32 - 1)):
        getattr(writer, f"add_{name}")(f"x.{name}", value)
    for name, value in (
        ("int32", -(2**31)),
        ("uint64", 2**64 - 1),
        ("int64", -(2**63)),
        ("float32", 1e-5),
        ("float64", 0.1),
    ):
        getattr(writer, f"add_{name}")(f"x.{name}", value)
    writer.add_bool("x.bool", True)
    writer.add_string("x.string", "héllo ▁ wörld\n")
    writer.add_array("x.strings", ["▁a", "", "ä" * 300, "\n"])
    writer.add_array("x.ints", [1, -2, 3])
    writer.add_array("x.floats", [0.5, -1e-3])
    writer.add_array("x.bools", [True, False])
    rng = np.random.default_rng(0)
    writer.add_tensor("f32", rng.normal(size=(3, 5)).astype(np.float32))
    writer.add_tensor("f16", rng.normal(size=(2, 3, 4)).astype(np.float16))
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("q8_0", gguf.quantize(rng.normal(size=(4, 64)).astype(np.float32), q8_0), raw_dtype=q8_0)
    writer.add_tensor("last", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_and_tensors_equal_those_of_gguf_reader(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf")
    ours, theirs = GgufFile.open(path), gguf.GGUFReader(path)
    fields = {k: f for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        kv = ours.metadata[key]
        assert [kv.type] + ([kv.item_type] if kv.item_type is not None else []) == field.types
        assert kv.value == field.contents()
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    for ref, tensor in zip(ours.tensors, theirs.tensors, strict=True):
        assert (ref.dtype, ref.offset, ref.nbytes) == (tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)
        assert ref.shape == tuple(reversed(tensor.shape.tolist()))
        want = gguf.dequantize(np.asarray(tensor.data), tensor.tensor_type).reshape(ref.n_rows, ref.n_per_row)
        np.testing.assert_array_equal(ref.rows(0, ref.n_rows), want)


def test_arrays_are_decoded_only_when_they_are_read(tmp_path: Path) -> None:
    raw = packed([array("x", build.STRING, ["fine", b"\xff\xfe"]), array("y", build.U32, [1, 2])])
    file = opened(tmp_path, raw)
    assert len(file.value("x")) == 2
    assert file.value("y")[1] == 2 and file.value("y")[-1:] == [2] and file.value("y") == (1, 2)
    with pytest.raises(GgufError, match=r"model.gguf: x: item 1 is not UTF-8"):
        list(file.value("x"))


def test_a_vocabulary_larger_than_the_first_read_is_stepped_over(tmp_path: Path) -> None:
    tokens = [f"token {i} " + "x" * (i % 97) for i in range(40_000)]
    file = opened(tmp_path, packed([array("t", build.STRING, tokens), kv("after", build.U8, 7)]))
    assert file.nbytes > 2 << 20
    assert isinstance(file.value("t"), GgufArray) and list(file.value("t")) == tokens
    assert file.value("after") == 7


@pytest.mark.parametrize("alignment", [1, 8, 32, 64, 4096])
def test_alignment_is_the_files_own(tmp_path: Path, alignment: int) -> None:
    entry = kv("general.alignment", build.U32, alignment)
    second = -(-32 // alignment) * alignment
    infos = [info("a", [8], 0), info("b", [1], second)]
    data = np.arange(8, dtype="<f4").tobytes().ljust(second, b"\0") + np.float32(5).tobytes()
    file = opened(tmp_path, packed([entry], infos, data, alignment=alignment))
    assert file.alignment == alignment
    assert file.tensors[1].rows(0, 1).item() == 5


def _u32(key: str, value: int) -> bytes:
    return kv(key, build.U32, value)


HUGE = 2**62
BAD: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "0 bytes are too few for a GGUF file"),
    "three bytes": (b"GGU", "3 bytes are too few for a GGUF file"),
    "bad magic": (packed(magic=b"GGUX"), "begins with b'GGUX', wanted b'GGUF'"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    "gzip": (b"\x1f\x8b" + bytes(60), "compressed with gzip"),
    "header cut in the counts": (packed()[:20], "entries at byte 16: 8 bytes are wanted, 4 are left"),
    "version 0": (packed(version=0), "GGUF version 0, wanted 2 or 3"),
    "version 1": (packed(version=1), "GGUF version 1.*Convert the model again"),
    "version 4": (packed(version=4), "GGUF version 4, wanted 2 or 3"),
    "big-endian": (packed(version=3 << 24), "the file is big-endian"),
    "number of tensors -1": (packed(n_tensors=2**64 - 1), "claims 18446744073709551615 tensors"),
    "number of entries -1": (packed(n_kv=2**64 - 1), "and 18446744073709551615 metadata entries"),
    "more tensors than bytes": (packed(n_tensors=9), "the name of a tensor at byte 24: 8 bytes are wanted, 0 are left"),
    "more entries than bytes": (packed(n_kv=9), "a key at byte 24: 8 bytes are wanted, 0 are left"),
    "key of 2^64-1 bytes": (packed([b"\xff" * 8]), "has 18446744073709551615 bytes, at most 65535"),
    "key beyond the file": (packed([b"\x09" + bytes(7) + b"abc"]), "a key at byte 32: 9 bytes are wanted, 3 are left"),
    "empty key": (packed([_u32("", 1)]), "a key is empty"),
    "NUL in a key": (packed([_u32("a\0b", 1)]), r"a key holds a NUL: a\\x00b"),
    "key that is not UTF-8": (packed([kv(b"\xc3\x28", build.U8, 1)]), "a key at byte 32 is not UTF-8"),
    "key twice": (packed([_u32("a", 1), _u32("a", 1)]), "key a appears twice"),
    "unknown type of value": (packed([kv("a", 13, b"")]), "key a has unknown type 13, wanted 0 to 12"),
    "value cut off": (packed([kv("a", build.U64, b"\1\2")]), "at byte 37: 8 bytes are wanted, 2 are left"),
    "string beyond the file": (packed([kv("a", build.STRING, b"\xff" * 4 + bytes(4))]), "the value of a .* bytes"),
    "string that is not UTF-8": (packed([kv("a", build.STRING, build.string(b"\xff"))]), "is not UTF-8"),
    "bool of 2": (packed([kv("a", build.BOOL, b"\2")]), "is the bool 2, wanted 0 or 1"),
    "array of arrays": (packed([array("a", build.ARRAY, [], count=1)]), "key a holds arrays of arrays"),
    "array of an unknown type": (packed([array("a", 99, [], count=1)]), "key a has unknown type 99"),
    "array of 2^62 bytes": (packed([array("a", build.U8, [], count=HUGE)]), f"{HUGE} bytes are wanted, 0 are left"),
    "array of 2^62 strings": (packed([array("a", build.STRING, [], count=HUGE)]), f"{HUGE * 8} bytes are wanted"),
    "array of strings cut off": (packed([array("a", build.STRING, ["x"], count=2)]), "the items of a at byte"),
    "string of 2^64-1 in an array": (
        packed([array("a", build.STRING, [], count=1) + b"\xff" * 8]), "the items of a at byte .* 8 are left"),
    "alignment 0": (packed([_u32("general.alignment", 0)]), "general.alignment is UINT32 0, wanted"),
    "alignment 13": (packed([_u32("general.alignment", 13)]), "general.alignment is UINT32 13, wanted"),
    "alignment as u64": (packed([kv("general.alignment", build.U64, 32)]), "general.alignment is UINT64 32"),
    "name of 64 bytes": (packed([], [info("n" * 64, [1], 0)], bytes(4)), "has 64 bytes, at most 63"),
    "NUL in a name": (packed([], [info("a\0", [1], 0)], bytes(4)), "the name of a tensor holds a NUL"),
    "name that is not UTF-8": (packed([], [info(b"\xff", [1], 0)], bytes(4)), "is not UTF-8"),
    "five dimensions": (packed([], [info("a", [1] * 5, 0)], bytes(4)), "tensor a has 5 dimensions, at most 4"),
    "dimension of -1": (packed([], [info("a", [2**64 - 1], 0)], bytes(4)), "tensor a has shape .* beyond 63 bits"),
    "product beyond 63 bits": (packed([], [info("a", [2**32, 2**32], 0)]), r"shape \[4294967296, 4294967296\], beyond"),
    "unknown ggml type": (packed([], [info("a", [32], 0, ggml_type=99)]), "tensor a has unknown ggml type 99"),
    "removed ggml type": (packed([], [info("a", [32], 0, ggml_type=4)]), "tensor a has unknown ggml type 4"),
    "row that is no whole block": (
        packed([], [info("a", [33], 0, ggml_type=8)]), "rows of 33, Q8_0 needs a multiple of 32"),
    "tensor's entry cut off": (packed([ONE[:-3]], n_kv=0, n_tensors=1), "the offset of a at byte"),
    "tensor twice": (packed([], [ONE, info("a", [8], 32)], bytes(64)), "tensor a appears twice"),
    "offset not aligned": (packed([], [ONE, info("b", [8], 33)], bytes(96)), "wanted 32: it is not aligned to 32"),
    "overlap": (packed([], [ONE, info("b", [8], 0)], bytes(64)), "begins at byte 0 .* it overlaps"),
    "gap": (packed([], [ONE, info("b", [8], 64)], bytes(96)), "begins at byte 64 of the data, wanted 32: it leaves"),
    "first tensor not at 0": (packed([], [info("a", [8], 32)], bytes(64)), "begins at byte 32 of the data, wanted 0"),
    "offset 2^64-32": (packed([], [info("a", [8], 2**64 - 32)], bytes(32)), "begins at byte 18446744073709551584"),
    "one byte short": (packed([], TWO, bytes(63)), r"tensor b ends at byte \d+, the file has.*fetch the file again"),
    "tensor larger than the file": (packed([], [info("a", [2**40], 0)], bytes(64)), "the file has .*cut short"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_malformed_file_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        opened(tmp_path, raw)


GOOD = {
    "no tensors": packed([ARCH]),
    "no entries": packed([], TWO, bytes(64)),
    "version 2": packed([ARCH], TWO, bytes(64), version=2),
    "dimension of zero": packed([ARCH], [info("a", [0], 0), info("b", [8], 0)], bytes(32)),
    "no dimensions": packed([ARCH], [info("a", [], 0)], bytes(32)),
    "last padding absent": packed([ARCH], [info("a", [1], 0)], bytes(4)),
    "bytes after the end": packed([], TWO, bytes(65)),
    "zip after the end": packed([], TWO, bytes(64) + b"PK\3\4"),
    "bytes and no tensors": packed([ARCH]) + bytes(1000),
    "empty arrays": packed([array("a", build.STRING, []), array("b", build.F64, [])]),
}


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD)
def test_unusual_but_valid_file_is_read_as_ggml_reads_it(tmp_path: Path, raw: bytes) -> None:
    opened(tmp_path, raw)
    assert ggml_accepts(tmp_path / "model.gguf")


def test_bytes_after_the_end_are_noted(tmp_path: Path) -> None:
    for n_bytes, noted in ((64, ()), (65, (1,)), (4160, (4096,))):
        notes = opened(tmp_path, packed([], TWO, bytes(n_bytes))).notes
        assert notes == tuple(f"model.gguf: {n} bytes follow the last tensor; nothing reads them" for n in noted)
    assert not opened(tmp_path, packed([], [info("a", [1], 0)], bytes(4))).notes


def ggml_accepts(path: Path) -> bool:
    """Whether ggml's own reader takes the header. Source: gguf.h gguf_init_from_file."""

    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    lib = ctypes.CDLL(str(library_path()))
    lib.gguf_init_from_file.restype, lib.gguf_init_from_file.argtypes = ctypes.c_void_p, (ctypes.c_char_p, Params)
    lib.gguf_free.argtypes = (ctypes.c_void_p,)
    context = lib.gguf_init_from_file(str(path).encode(), Params(True, None))
    if context:
        lib.gguf_free(context)
    return bool(context)


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.gguf").read_bytes()
    for length in range(0, len(whole) - 32, 7):  # the padding of the last tensor may be absent
        with pytest.raises(GgufError):
            opened(tmp_path, whole[:length])


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    import os

    with pytest.raises(GgufError, match="is a folder, a file is wanted. Name one of the files in it"):
        GgufFile.open(tmp_path)
    with pytest.raises(GgufError, match="No such file or directory. Check the path"):
        GgufFile.open(tmp_path / "absent.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GgufError, match="not a regular file"):
        GgufFile.open(tmp_path / "pipe.gguf")


def write_split(folder: Path, count: int = 3, change: Callable[[int], dict[str, int]] = lambda _: {}) -> list[Path]:
    """Parts with one tensor each; `change` gives other split.* values to a part."""
    paths = []
    for number in range(count):
        split = {"split.no": number, "split.count": count, "split.tensors.count": count} | change(number)
        entries = ([ARCH] if number == 0 else []) + [kv(k, build.U16, v) for k, v in split.items()]
        path = folder / f"m-{number + 1:05d}-of-{count:05d}.gguf"
        data = np.full(8, number, "<f4").tobytes()
        path.write_bytes(packed(entries, [info(f"t{number}", [8], 0)], data))
        paths.append(path)
    return paths


@pytest.mark.parametrize("entrance", [0, 2])
def test_split_model_is_opened_as_one_from_any_part(tmp_path: Path, entrance: int) -> None:
    file = GgufFile.open(write_split(tmp_path)[entrance])
    assert file.value("general.architecture") == "llama"
    assert [t.rows(0, 1)[0, 0] for t in file.tensors] == [0, 1, 2]
    assert len(file.parts) == 3 and file.path.name == "m-00001-of-00003.gguf"


def test_split_model_with_a_fault_is_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    moved = paths[0].rename(tmp_path / "model.gguf")
    with pytest.raises(GgufError, match="is part of a split of 3 files, whose names end in -00001-of-00003"):
        GgufFile.open(moved)
    moved.rename(paths[0])
    paths[1].unlink()
    with pytest.raises(GgufError, match="m-00002-of-00003.gguf is missing; the model is split over 3 files"):
        GgufFile.open(paths[0])
    write_split(tmp_path, change=lambda number: {"split.no": 0})
    with pytest.raises(GgufError, match="says it is part 1 of 3, its name says 2 of 3"):
        GgufFile.open(paths[0])
    write_split(tmp_path, change=lambda number: {"split.tensors.count": 4})
    with pytest.raises(GgufError, match="the parts hold 3 tensors together, split.tensors.count says 4"):
        GgufFile.open(paths[0])
    write_split(tmp_path)[1].write_bytes(paths[1].read_bytes().replace(b"t1", b"t0"))
    with pytest.raises(GgufError, match="tensor t0 is in two parts"):
        GgufFile.open(paths[0])
