"""GGUFs as people have them: any part of a split, bytes behind the end. They run as the plain file does."""

import os
import shutil

import gguf
import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.model import KV
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device


def split_in_two(whole, folder):
    """The parts of `whole`, as gguf-split names and numbers them."""
    file = GgufFile.open(whole)
    half = len(file.tensors) // 2
    for number, tensors in enumerate((file.tensors[:half], file.tensors[half:])):
        kind = gguf.GGUFValueType
        entries = [*file.metadata.values()] if number == 0 else []
        entries += [KV("split.no", kind.UINT16, number), KV("split.count", kind.UINT16, 2),
                    KV("split.tensors.count", kind.INT32, len(file.tensors))]  # fmt: skip
        rows, data = [], b""
        for t in tensors:
            rows.append((t.name, t.shape, int(gguf.GGMLQuantizationType[t.dtype]), len(data)))
            raw = t.file.pread(t.offset, t.nbytes).tobytes()
            data += raw + bytes(-len(raw) % 32)
        (folder / f"m-{number + 1:05d}-of-00002.gguf").write_bytes(header_bytes(entries, rows, 32) + data)
    file.close()


def logits(path):
    with Engine.open(path, n_ctx=64, threads=1, device=Device.CPU) as engine:
        engine.decode(np.array([1, 2, 3], np.int32), 0, logits=[0, 0, 1])
        return engine.logits(1).copy()


@pytest.mark.parametrize("how", ["first part", "second part", "bytes behind the end"])
def test_an_odd_file_runs_as_the_plain_one_does(how, stories, tmp_path):
    if how == "bytes behind the end":
        path = tmp_path / "m.gguf"
        shutil.copy(stories, path)
        path.write_bytes(path.read_bytes() + bytes(4096))
    else:
        split_in_two(stories, tmp_path)
        path = tmp_path / f"m-0000{1 if how == 'first part' else 2}-of-00002.gguf"
    np.testing.assert_array_equal(logits(path), logits(stories))


def test_a_file_that_is_written_to_while_it_runs_is_told(stories, tmp_path):
    """Its pages are mapped: what was computed belongs half to one model, half to another."""
    path = tmp_path / "model.gguf"
    shutil.copy(stories, path)
    with pytest.raises(InputError, match=r"model\.gguf was written to while it ran"):  # noqa: SIM117
        with Engine.open(path, n_ctx=64, threads=1, device=Device.CPU) as engine:
            engine.decode(np.array([1, 2, 3], np.int32), 0)
            with path.open("r+b") as file:
                file.write(b"GGUF")
            os.utime(path, ns=(1, 1))


def test_another_file_under_its_name_does_no_harm(stories, tmp_path):
    path = tmp_path / "model.gguf"
    shutil.copy(stories, path)
    with Engine.open(path, n_ctx=64, threads=1, device=Device.CPU) as engine:
        shutil.copy(stories, tmp_path / "new.gguf")
        (tmp_path / "new.gguf").replace(path)
        engine.decode(np.array([1, 2, 3], np.int32), 0)
