"""A model's tensors hand out rows in their final shape; any slab has the rows of the whole."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.formats.bend import Bend, gathered, negated_exp, plus_one
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.formats.source_file import SourceFile
from ggufkit.formats.tensor import TensorRef

NUMPY = {"F32": "f4", "F16": "f2", "F64": "f8"}
FAR = np.array([60, 2, 2, *range(29)])
SLABS = ((0, 1), (5, 9), (8, 16), (31, 32), (3, 32))


def stored(folder: Path, *shape: int, dtype: str = "F32") -> TensorRef:
    """A tensor whose values count up from 0, exact in every format."""
    raw = np.arange(np.prod(shape)).astype(NUMPY[dtype])
    path = folder / f"weights {dtype}"
    path.write_bytes(raw.tobytes())
    return TensorRef("w", shape, dtype, SourceFile(path), 0, raw.nbytes)


def rope_order(n_head: int, head_dim: int) -> np.ndarray:
    return np.arange(n_head * head_dim).reshape(n_head, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)


BENDS = {
    "a head's halves interleaved": (Bend(order=rope_order(4, 8)), lambda w: w[rope_order(4, 8)]),
    "every second row": (Bend(order=np.arange(1, 64, 2)), lambda w: w[1::2]),
    "rows far apart, one of them twice": (Bend(order=FAR), lambda w: w[FAR]),
    "columns": (Bend(columns=np.array([2, 0])), lambda w: w[:, [2, 0]]),
    "transposed": (Bend(transposed=True), lambda w: w.T),
    "transposed, every second of its rows": (Bend(transposed=True, order=np.arange(0, 64, 2)), lambda w: w.T[::2]),
    "plus one": (Bend(value=plus_one), lambda w: w + 1),
    "all of it": (
        Bend(transposed=True, order=rope_order(4, 8), columns=np.arange(5)[::-1], value=plus_one),
        lambda w: w.T[rope_order(4, 8)][:, 4::-1] + 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["F32", "F16", "F64"])
@pytest.mark.parametrize("what", BENDS)
def test_any_slab_has_the_rows_of_the_whole(what: str, dtype: str, tmp_path: Path) -> None:
    bend, by_numpy = BENDS[what]
    shape = (8, 64) if bend.transposed else (64, 8)
    w = np.arange(512, dtype=np.float32).reshape(shape)
    wanted = by_numpy(w)
    tensor = ModelTensor("w", wanted.shape, dtype, (stored(tmp_path, *shape, dtype=dtype),), bend)
    assert np.array_equal(tensor.rows(0, 0, len(wanted)), wanted)
    for start, stop in SLABS:
        rows = tensor.rows(0, start, stop)
        assert np.array_equal(rows, wanted[start:stop])
        assert rows.flags.c_contiguous and rows.dtype == np.float32
        if tensor.has_stored_rows:
            assert tensor.raw_rows(0, start, stop).tobytes() == wanted[start:stop].astype(NUMPY[dtype]).tobytes()


def test_each_expert_of_one_stored_tensor_is_bent_on_its_own(tmp_path: Path) -> None:
    w = np.arange(3 * 4 * 6, dtype=np.float32).reshape(3, 4, 6)
    ref = stored(tmp_path, 3, 4, 6)
    tensor = ModelTensor("w", (3, 3, 4), "F32", (ref,), Bend(transposed=True, order=np.arange(0, 6, 2)))
    for expert in range(3):
        assert np.array_equal(tensor.rows(expert, 0, 3), w[expert].T[::2])


def test_a_slice_is_a_matrix_of_its_own(tmp_path: Path) -> None:
    ref = stored(tmp_path, 8, 4).sliced(2, 5)
    assert ref.shape == (3, 4)
    assert np.array_equal(ref.rows(1, 3), np.arange(12, 20, dtype=np.float32).reshape(2, 4))
    assert np.array_equal(ref.sliced(2, 3).rows(0, 1), [[16, 17, 18, 19]])


def test_a_one_dimensional_tensor_becomes_a_column_and_elements_move(tmp_path: Path) -> None:
    ref = stored(tmp_path, 4)
    assert np.array_equal(ModelTensor("w", (4, 1), "F32", (ref,), Bend(transposed=True)).rows(0, 1, 4), [[1], [2], [3]])
    moved = ModelTensor("w", (4,), "F32", (ref,), Bend(columns=np.array([3, 1, 0, 2])))
    assert np.array_equal(moved.rows(0, 0, 1), [[3, 1, 0, 2]])


def test_rows_far_apart_are_not_read_along(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return np.arange(start, stop)[:, None]

    assert list(gathered(read, np.array([9, 0, 2, 100, 101]))[:, 0]) == [9, 0, 2, 100, 101]
    assert asked == [(0, 3), (9, 10), (100, 102)]


def test_decays_are_rounded_once() -> None:
    w = np.array([-3.5, 0.0, 2.25], dtype=np.float32)
    assert list(negated_exp(w)) == [np.float32(-np.exp(np.float64(x))) for x in w]


def test_a_stored_tensor_that_makes_two_is_counted_once(tmp_path: Path) -> None:
    ref = stored(tmp_path, 8, 4)
    two = tuple(ModelTensor(name, (4, 4), "F32", (ref,), Bend(order=np.arange(i, 8, 2))) for i, name in enumerate("ab"))
    assert Model(None, (), two).source_nbytes == ref.nbytes  # type: ignore[arg-type]
