"""A checkpoint's folder: what is complete opens, and everything else is one error that says what to do."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import Checkpoint, read_bytes, read_json
from tests.formats.build import write_shard

MODELS = Path(__file__).parents[2] / "models"
SECRET = "secret.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, np.float32)


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with their index."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    write_shard(path / SHARDS[0], {"a": A})
    write_shard(path / SHARDS[1], {"b": B})
    write_index(path, {"a": SHARDS[0], "b": SHARDS[1]})
    return path


def test_shards_with_an_index_are_one_checkpoint(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == {"model_type": "llama"} and checkpoint.generation_config == {}
    assert list(checkpoint.tensors) == ["a", "b"]
    np.testing.assert_array_equal(checkpoint.tensors["a"].rows(0, 2), A)
    np.testing.assert_array_equal(checkpoint.tensors["b"].rows(0, 1)[0], B)


def test_numbered_shards_need_no_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    assert list(Checkpoint.open(folder).tensors) == ["a", "b"]


def test_shipped_models_open_as_the_library_opens_them() -> None:
    for path in sorted(p for p in MODELS.iterdir() if p.is_dir()):
        checkpoint = Checkpoint.open(path)
        names = set()
        for shard in checkpoint.shards:
            with safe_open(shard.file.path, framework="numpy") as theirs:
                for name in theirs.keys():  # noqa: SIM118 - it is no mapping
                    names.add(name)
                    part = theirs.get_slice(name)
                    ref = checkpoint.tensors[name]
                    assert (list(ref.shape), ref.dtype) == (part.get_shape(), part.get_dtype())
        assert names == set(checkpoint.tensors)


def test_model_is_preferred_to_the_same_weights_under_other_names(folder: Path) -> None:
    for name in SHARDS:
        (folder / name).unlink()
    (folder / INDEX).unlink()
    write_shard(folder / "consolidated.safetensors", {"native": A})
    assert list(Checkpoint.open(folder).tensors) == ["native"]
    write_shard(folder / "model.safetensors", {"a": A})
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert list(Checkpoint.open(folder).tensors) == ["a"]


def test_links_of_the_hub_cache_are_followed(tmp_path: Path, folder: Path) -> None:
    snapshot, blobs = tmp_path / "models--o--m" / "snapshots" / "rev", tmp_path / "models--o--m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in sorted(folder.iterdir()):
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert list(Checkpoint.open(snapshot).tensors) == ["a", "b"]


def test_links_that_a_person_made_are_followed(tmp_path: Path, folder: Path) -> None:
    """Every file elsewhere; the folder itself a link; a model in a subfolder of the hub's snapshot."""
    for i, home in enumerate(("elsewhere", "models--o--m/blobs")):
        blobs = tmp_path / home
        blobs.mkdir(parents=True)
        sub = tmp_path / f"models--o--m/snapshots/rev{i}/sub"
        sub.mkdir(parents=True)
        for path in sorted(folder.iterdir()):
            (blobs / path.name).write_bytes(path.read_bytes())
            (sub / path.name).symlink_to(blobs / path.name)
        (tmp_path / f"link{i}").symlink_to(sub, target_is_directory=True)
        assert list(Checkpoint.open(tmp_path / f"link{i}").tensors) == ["a", "b"]


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_an_index_may_list_what_no_model_needs_stored(folder: Path, name: str) -> None:
    write_index(folder, BOTH | {name: SHARDS[1]})
    checkpoint = Checkpoint.open(folder)
    assert list(checkpoint.tensors) == ["a", "b"] and name in checkpoint.notes[0]


def test_litter_beside_weights_is_ignored(folder: Path) -> None:
    """What macOS, Windows and editors leave; also beside one file of an unusual name."""
    for name in SHARDS:
        (folder / f"._{name}").write_bytes(b"\0\5\x16\7" + bytes(100))
        (folder / f"{name}~").write_bytes(b"")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._config.json", "._" + INDEX, ".model.safetensors.swp"):
        (folder / name).write_bytes(b"\0")
    (folder / "old.safetensors").mkdir()
    assert list(Checkpoint.open(folder).tensors) == ["a", "b"]
    for name in (INDEX, *SHARDS):
        (folder / name).unlink()
    write_shard(folder / "merged.safetensors", {"c": A})
    (folder / "._merged.safetensors").write_bytes(bytes(100))
    assert list(Checkpoint.open(folder).tensors) == ["c"]


OPTIONAL = [
    b"",
    b"  ",
    b"null",
    b"1",
    b"[]",
    b"{",
    b"\xff\xfe{\0}\0",
    b'{"a": "\xe9"}',
    b"<html>",
    b"[" * 100_000,
    b'{"a":1,"a":2}',
]


@pytest.mark.parametrize("content", OPTIONAL)
def test_a_generation_config_that_cannot_be_read_is_left_out_with_a_note(folder: Path, content: bytes) -> None:
    (folder / "generation_config.json").write_bytes(content)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.generation_config == {}
    assert len(checkpoint.notes) == 1 and "generation_config.json" in checkpoint.notes[0]


def test_a_byte_order_mark_in_a_json_file_is_passed_over(folder: Path) -> None:
    for name in ("config.json", INDEX):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert list(Checkpoint.open(folder).tensors) == ["a", "b"]


def test_fingerprint_follows_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    first = Checkpoint.open(folder).fingerprint()
    moved = folder.rename(tmp_path / "moved")
    assert Checkpoint.open(moved).fingerprint() == first
    write_shard(moved / SHARDS[0], {"a": A + 1})
    other = Checkpoint.open(moved).fingerprint()
    (moved / "config.json").write_text('{"model_type": "mistral"}')
    assert len({first, other, Checkpoint.open(moved).fingerprint()}) == 3


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]  # type: ignore[return-value]


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)  # type: ignore[return-value]


def maps(weight_map: Any) -> Callable[[Path], None]:
    return lambda folder: write_index(folder, weight_map)


def bare(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    """A folder without its shards, then `steps`."""

    def change(folder: Path) -> None:
        remove(INDEX, *SHARDS)(folder)
        for step in steps:
            step(folder)

    return change


def link_outside(folder: Path) -> None:
    outside = (folder / SHARDS[1]).rename(folder.parent / SECRET)
    (folder / SHARDS[1]).symlink_to(outside)


def loop(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()
    (folder / SHARDS[1]).symlink_to(folder / SHARDS[1])


def cut(folder: Path) -> None:
    with (folder / SHARDS[1]).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 1)


def shard(name: str, tensors: dict[str, np.ndarray]) -> Callable[[Path], None]:
    return lambda folder: write_shard(folder / name, tensors)


def pipe(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()
    os.mkfifo(folder / SHARDS[1])


BOTH = {"a": SHARDS[0], "b": SHARDS[1]}
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (remove("config.json"), "has no config.json. Pass the folder"),
    "config is a list": (write("config.json", b"[]"), r"config.json: wanted a JSON object, got \[\]"),
    "config is no JSON": (write("config.json", b"{'a': 1}"), "config.json: Expecting property name"),
    "config is not UTF-8": (write("config.json", b'{"a": "\xff"}'), "config.json: not UTF-8 at byte 7"),
    "config nested deeply": (write("config.json", b'{"a":' * 99_999), "config.json: nested too deeply"),
    "key of the config twice": (write("config.json", b'{"a":1,"a":2}'), "key 'a' appears twice with different values"),
    "config is a pointer": (write("config.json", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "config is a link to nothing": (
        lambda f: (remove("config.json")(f), (f / "config.json").symlink_to(f / "x")), "config.json: No such file"),
    "shard absent": (remove(SHARDS[1]), "00002.safetensors is missing; model.safetensors.index.json names it"),
    "shard cut short": (cut, r"00002.safetensors: tensor b ends at byte 16 of the data, the file has 15"),
    "shard is a pointer": (write(SHARDS[1], b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "shard is a pipe": (pipe, "is not a regular file"),
    "shard absent, no index": (remove(INDEX, SHARDS[0]), "has 1 of 2 shards; number 1 is missing"),
    "shards of two sets, no index": (
        lambda f: (remove(INDEX)(f), shard("model-00001-of-00003.safetensors", {"c": A})(f)), "of 00002 and of 00003"),
    "shard beyond the count, no index": (
        lambda f: (remove(INDEX)(f), shard("model-00003-of-00002.safetensors", {"c": A})(f)), "numbered out of range"),
    "tensor in two shards, no index": (
        lambda f: (remove(INDEX)(f), shard(SHARDS[1], {"a": A})(f)), "tensor a is in model-00001.* and in model-00002"),
    "shard that the index does not name": (
        shard("model-00001-of-00009.safetensors", {"c": A}), "model-00001-of-00009.safetensors is not in model.safe"),
    "tensor that the index does not list": (maps({"a": SHARDS[0], "c": SHARDS[1]}), "b is in this shard, .* not list"),
    "tensor in another shard": (maps({"a": SHARDS[1], "b": SHARDS[0]}), "a is in this shard, .* says model-00002"),
    "tensor absent": (maps(BOTH | {"c": SHARDS[1]}), "tensor c is absent, model.safetensors.index.json says"),
    "link to nothing": (lambda f: (link_outside(f), (f.parent / SECRET).unlink()), "link to a file that is gone"),
    "link to itself": (loop, "is a link to a file that is gone"),
    "pickles alone": (bare(write("pytorch_model.bin", b"\x80")), r"pickled weights \(pytorch_model.bin\).*save_pretr"),
    "Meta's pickles": (bare(write("consolidated.00.pth", b"PK\3\4")), r"pickled weights \(consolidated.00.pth\)"),
    "adapter alone": (bare(shard("adapter_model.safetensors", {"a": A})), "holds an adapter .* Merge it"),
    "GGUF alone": (
        bare(write("m.Q8_0.gguf", b"GGUF"), write("._m.Q8_0.gguf", b""), write("._m.bin", b"")),
        "no .safetensors file. Pass the file itself: .*/m.Q8_0.gguf"),
    "nothing but config": (bare(), "has no .safetensors file. Fetch the checkpoint again"),
    "several unknown names": (
        bare(shard("x.safetensors", {"a": A}), shard("y.safetensors", {"a": A})), "x.safetensors, y.safetensors and"),
    "no tensors": (bare(shard("model.safetensors", {})), "no tensors in model.safetensors"),
}  # fmt: skip


BAD_INDEX: dict[str, tuple[Callable[[Path], object], str]] = {
    "tensor in the index twice": (
        write(INDEX, b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'), "key 'a' appears twice"),
    "index is a list": (write(INDEX, b"[]"), "weight_map is None, wanted tensors with their files"),
    "index without weight_map": (write(INDEX, b'{"metadata": {}}'), "weight_map is None"),
    "weight_map is a list": (maps(["a"]), r"weight_map is \['a'\], wanted tensors"),
    "weight_map is empty": (maps({}), "weight_map is {}, wanted tensors"),
    "index is HTML": (write(INDEX, b"<html>"), "is an HTML page"),
    "index is a link to nothing": (lambda f: (remove(INDEX)(f), (f / INDEX).symlink_to(f / "x")), "No such file"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_INDEX.values(), ids=BAD_INDEX)
def test_an_index_that_cannot_be_read_is_needed_only_where_names_do_not_tell(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    checkpoint = Checkpoint.open(folder)
    assert list(checkpoint.tensors) == ["a", "b"]
    assert re.search(message, checkpoint.notes[0]) and "The shards are complete without it" in checkpoint.notes[0]
    (folder / SHARDS[0]).rename(folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match="has 1 of 2 shards"):
        Checkpoint.open(folder)
    (folder / SHARDS[1]).unlink()
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_folder_with_a_fault_is_refused(folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


EVIL = ["../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "..\\a.safetensors", "C:a.safetensors",
        "\\\\host\\a.safetensors", "a\0.safetensors", "..", "", ".a.safetensors", "-o.safetensors", "model.bin",
        "https://x/a.safetensors", "a\n.safetensors", None, 1, ["a.safetensors"], "\u202ea.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_shard_name_that_is_not_plain_is_refused(folder: Path, name: Any) -> None:
    write_index(folder, {"a": name})
    with pytest.raises(CheckpointError, match="wanted a plain name of a .safetensors file in this folder"):
        Checkpoint.open(folder)


def test_key_of_the_config_twice_with_one_value_passes(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"a": 1, "a": 1}')
    assert Checkpoint.open(folder).config == {"a": 1}


@pytest.mark.parametrize("place", ["m", "snapshots/rev", "models--o--m/snapshots/rev", "snapshots/rev/sub"])
def test_a_folder_above_the_checkpoint_leads_to_it(folder: Path, place: str) -> None:
    home = folder.parent / "cache" / place
    home.parent.mkdir(parents=True)
    folder.rename(home)
    with pytest.raises(CheckpointError, match=f"has no config.json. Pass the folder that has it: {home}"):
        Checkpoint.open(folder.parent / "cache")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may try being another user")
@pytest.mark.parametrize("mode", [0o444, 0o111, 0])
def test_a_folder_that_may_not_be_entered_is_refused(folder: Path, mode: int) -> None:
    for path in (folder, *folder.parents[:-2]):
        path.chmod(0o755)
    folder.chmod(mode)
    os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match="Permission denied. Check"):
            Checkpoint.open(folder)
    finally:
        os.seteuid(0)
        folder.chmod(0o755)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent does not exist or is not a folder"):
        Checkpoint.open(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is empty. The download did not happen"):
        Checkpoint.open(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="file is a file. Pass the folder"):
        Checkpoint.open(tmp_path / "file")


def test_optional_files_are_bounded(folder: Path) -> None:
    assert read_json(folder, "tokenizer_config.json") is None
    assert read_bytes(folder, "tokenizer.model") == b""
    (folder / "tokenizer.model").write_bytes(bytes(100))
    assert read_bytes(folder, "tokenizer.model", max_nbytes=100) == bytes(100)
    with pytest.raises(CheckpointError, match="tokenizer.model: 100 bytes, at most 99 are read"):
        read_bytes(folder, "tokenizer.model", max_nbytes=99)


def test_opening_reads_no_weights(folder: Path) -> None:
    """A sparse shard of 64 GiB opens at once."""
    header = json.dumps({"b": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}).encode()
    with (folder / SHARDS[1]).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 36))
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.tensors["b"].nbytes == 1 << 36
    assert len(checkpoint.fingerprint()) == 64
