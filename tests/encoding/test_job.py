"""A job's file: tensors in any order, a few at a time, under its name only when all of it is there."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.job import Output, prepare, write
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import InputError, OutputError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.model import KV, Model
from ggufkit.formats.unfinished import partial_path
from tests.recipes.narrow import Narrow, write_narrow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_narrow(tmp_path_factory.mktemp("model") / "source.gguf", Narrow(n_layer=3))
    with open_source(path) as opened:
        yield opened


def settings(output: Path, **changes: object) -> QuantizeSettings:
    base = QuantizeSettings(source=output.parent / "source.gguf", output=output, threads=1)
    return dataclasses.replace(base, **changes)


class Counting(PlainEncoder):
    """An encoder that knows at the end how many rows it saw."""

    n_rows = 0

    @property
    def metadata(self) -> tuple[KV, ...]:
        return (KV("ggufkit.test.rows", gguf.GGUFValueType.UINT32, self.n_rows),)

    def __call__(self, planned, expert, w, first=0):  # type: ignore[no-untyped-def]
        self.n_rows += len(w)
        return super().__call__(planned, expert, w, first)


def test_any_order_gives_the_same_bytes(model: Model, tmp_path: Path) -> None:
    encoder = PlainEncoder()
    write(prepare(settings(tmp_path / "whole.gguf"), model, encoder), encoder)
    job = prepare(settings(tmp_path / "parts.gguf"), model, encoder)
    names = [t.name for t in job.plan.tensors]
    with Output(job) as out:
        for name in reversed(names):
            assert out.todo({name})
            out.encode(encoder, {name})
            assert not (tmp_path / "parts.gguf").exists()
        out.finish(encoder)
    assert (tmp_path / "parts.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_what_the_encoder_learns_on_the_way_is_in_the_header(model: Model, tmp_path: Path) -> None:
    encoder = Counting()
    job = prepare(settings(tmp_path / "out.gguf"), model, encoder)
    assert job.plan.metadata[-1].value == 0
    write(job, encoder)
    with closing(GgufFile.open(tmp_path / "out.gguf")) as file:
        assert file.value("ggufkit.test.rows") == encoder.n_rows > 0


def test_a_tensor_that_was_left_out_keeps_the_file_unfinished(model: Model, tmp_path: Path) -> None:
    encoder = PlainEncoder()
    job = prepare(settings(tmp_path / "out.gguf"), model, encoder)
    with pytest.raises(OutputError, match="bytes written; not finished"), Output(job) as out:
        out.encode(encoder, {"output.weight"})
        out.finish(encoder)
    assert not (tmp_path / "out.gguf").exists() and partial_path(tmp_path / "out.gguf").exists()
    with Output(prepare(settings(tmp_path / "out.gguf", resume=True), model, encoder)) as out:
        assert not out.todo({"output.weight"}) and out.todo()
        out.encode(encoder)
        out.finish(encoder)
    assert (tmp_path / "out.gguf").exists()


def test_nothing_is_left_where_nothing_was_done(model: Model, tmp_path: Path) -> None:
    encoder = PlainEncoder()
    with pytest.raises(KeyboardInterrupt), Output(prepare(settings(tmp_path / "out.gguf"), model, encoder)):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_identity_follows_what_decides_the_bytes(model: Model, tmp_path: Path) -> None:
    def identity(encoder: PlainEncoder, **changes: object) -> str:
        return prepare(settings(tmp_path / "out.gguf", **changes), model, encoder).identity

    base = identity(PlainEncoder())
    assert base == identity(PlainEncoder(), threads=3, max_memory=1 << 30, force=True)
    others = [identity(PlainEncoder(quant.Encoder.GGML)), identity(PlainEncoder(), recipe="Q5_K_M"),
              identity(PlainEncoder(), allow_nonfinite=True)]  # fmt: skip
    assert len({base, *others}) == 4


def test_weights_that_are_not_finite_are_refused_for_every_encoder(tmp_path: Path) -> None:
    path = write_narrow(tmp_path / "source.gguf", Narrow(n_layer=1))
    with closing(GgufFile.open(path)) as file:
        ref = next(t for t in file.tensors if t.name == "blk.0.attn_k.weight")
        offset = ref.offset
    with path.open("r+b") as raw:
        raw.seek(offset + 4 * 259)  # row 1, column 3
        raw.write(np.float32(np.inf).tobytes())
    with open_source(path) as model:
        for encoder in (PlainEncoder(), Counting(quant.Encoder.GGML)):
            job = prepare(settings(tmp_path / "out.gguf", source=path), model, encoder)
            with pytest.raises(InputError, match=r"blk.0.attn_k.weight.* row 1 column 3 is inf.*--allow-nonfinite"):
                write(job, encoder)
        allowed = settings(tmp_path / "out.gguf", source=path, allow_nonfinite=True, recipe="F32")
        write(prepare(allowed, model, PlainEncoder()), PlainEncoder())
    assert (tmp_path / "out.gguf").exists()
