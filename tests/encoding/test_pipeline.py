"""A slab: looked at, encoded or taken over, padded; the first error stops the others and names the weight."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.executors.threads import Threads
from ggufkit.encoding.pipeline import encode_slab, encode_slabs
from ggufkit.encoding.slabs import slabs
from ggufkit.errors import InputError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.recipes.build import make_plan
from tests.recipes.narrow import Narrow, write_narrow

NAME = "blk.0.attn_k.weight"


class Memory:
    """A target of bytes that counts how often each is written."""

    def __init__(self, nbytes: int) -> None:
        self.data, self.times = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)

    def write(self, offset: int, data: np.ndarray, /) -> None:
        self.data[offset : offset + len(data)] = data
        self.times[offset : offset + len(data)] += 1


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_narrow(tmp_path_factory.mktemp("pipeline") / "source.gguf", Narrow(n_layer=1))


def spoil(path: Path, folder: Path, value: float) -> Path:
    """A copy whose weight in row 1, column 3 of NAME is `value`."""
    with closing(GgufFile.open(path)) as file:
        offset = next(t.offset for t in file.tensors if t.name == NAME)
    copy = folder / "spoiled.gguf"
    raw = bytearray(path.read_bytes())
    raw[offset + 4 * 259 : offset + 4 * 260] = np.float32(value).tobytes()
    copy.write_bytes(raw)
    return copy


@pytest.mark.parametrize("rows", [1, 2])
def test_slabs_and_threads_do_not_change_a_byte(rows: int, path: Path) -> None:
    with open_source(path) as model:
        plan = make_plan(model, "Q4_K_M")
        whole, cut = Memory(plan.file_nbytes), Memory(plan.file_nbytes)
        encode_slabs(slabs(plan, 1 << 20), whole, PlainEncoder(), Threads(1))
        encode_slabs(slabs(plan, 256 * rows), cut, PlainEncoder(), Threads(3))
    assert np.array_equal(whole.data, cut.data)
    assert (cut.times[plan.data_offset :] == 1).all() and not cut.times[: plan.data_offset].any()


def test_a_slab_is_its_rows_encoded_and_padding(path: Path) -> None:
    with open_source(path) as model:
        slab = next(s for s in slabs(make_plan(model, "Q4_K_M"), 1 << 20) if s.planned.name == NAME)
        made = encode_slab(slab, PlainEncoder(), allow_nonfinite=False)
        w = slab.planned.tensor.rows(0, slab.start, slab.stop)
    wanted = quant.quantize(w, slab.planned.qtype).reshape(-1)
    assert len(made) == slab.nbytes and np.array_equal(made[: len(wanted)], wanted) and not made[len(wanted) :].any()


def test_stored_blocks_of_the_wanted_type_are_taken_over(tmp_path: Path) -> None:
    source = write_narrow(tmp_path / "q8.gguf", Narrow(n_layer=1, dtype="Q8_0"))
    with open_source(source) as model:
        slab = next(s for s in slabs(make_plan(model, "Q8_0"), 1 << 20) if s.planned.name == NAME)
        stored = slab.planned.tensor.raw_rows(0, slab.start, slab.stop).reshape(-1)
        encoded = PlainEncoder()(slab.planned, 0, slab.planned.tensor.rows(0, slab.start, slab.stop)).reshape(-1)
        assert np.array_equal(encode_slab(slab, PlainEncoder(), allow_nonfinite=False)[: len(stored)], stored)
        assert not np.array_equal(encoded, stored)


@pytest.mark.parametrize(
    ("value", "recipe", "said"),
    [
        (np.nan, "Q4_K_M", "row 1 column 3 is nan"),
        (-np.inf, "F32", "row 1 column 3 is -inf"),
        (70000.0, "F16", "row 1 column 3 is 70000, which F16 cannot hold; use --type bf16"),
    ],
)
def test_a_weight_that_cannot_be_stored_is_named(
    value: float, recipe: str, said: str, path: Path, tmp_path: Path
) -> None:
    with open_source(spoil(path, tmp_path, value)) as model:
        plan = make_plan(model, recipe)
        with pytest.raises(InputError, match=rf"{NAME}.*{said}.*--allow-nonfinite"):
            encode_slabs(slabs(plan, 1 << 20), Memory(plan.file_nbytes), PlainEncoder(), Threads(1))
        encode_slabs(slabs(plan, 1 << 20), Memory(plan.file_nbytes), PlainEncoder(), Threads(1), allow_nonfinite=True)
