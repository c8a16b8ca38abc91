"""A file to be thrown away holds the tensors as they are stored, and a hole for layers that are never computed."""

import dataclasses
import errno
import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.errors import OutputError
from ggufkit.fitting.sources.scratch import plan_as_it_is, write_as_it_is
from ggufkit.recipes.quantizable import layer_of
from tests.conftest import TINY_MIXTRAL
from tests.fitting import stories


def test_every_tensor_keeps_its_type_and_its_bits(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with open_source(TINY_MIXTRAL) as model:
        write_as_it_is(path, model, threads=2)
        found = {t.name: t for t in gguf.GGUFReader(path).tensors}
        assert list(found) == [t.name for t in model.tensors]
        for tensor in model.tensors:
            one, n_rows = found[tensor.name], tensor.n_expert * tensor.n_rows
            kept = "F32" if tensor.keep_f32 or len(tensor.shape) == 1 else "BF16"
            assert one.tensor_type.name == kept, tensor.name
            values = gguf.dequantize(one.data, one.tensor_type).reshape(n_rows, -1)
            wanted = np.concatenate([tensor.rows(i, 0, tensor.n_rows) for i in range(tensor.n_expert)])
            assert np.array_equal(values, wanted), tensor.name
        assert path.stat().st_size == plan_as_it_is(model).file_nbytes


def test_tensors_without_parts_are_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with open_source(stories.FOLDER) as model:
        tensors = [dataclasses.replace(t, parts=() if layer_of(t.name) >= 2 else t.parts) for t in model.tensors]
        write_as_it_is(path, dataclasses.replace(model, tensors=tuple(tensors)), threads=1)
    for tensor in gguf.GGUFReader(path).tensors:
        outside = tensor.name.startswith(("blk.2.", "blk.3.", "blk.4."))
        assert bool(tensor.data.any()) != outside, tensor.name


def test_a_disk_that_takes_less_at_a_time_gets_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    with open_source(stories.FOLDER) as model:
        write_as_it_is(tmp_path / "at-once.gguf", model, threads=1)
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:1000], offset))
        write_as_it_is(tmp_path / "bit-by-bit.gguf", model, threads=1)
    assert (tmp_path / "bit-by-bit.gguf").read_bytes() == (tmp_path / "at-once.gguf").read_bytes()


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with (
        open_source(stories.FOLDER) as model,
        pytest.raises(OutputError, match=r"model\.gguf: cannot be written: No space left .* Make room on that disk"),
    ):
        write_as_it_is(tmp_path / "model.gguf", model, threads=1)
