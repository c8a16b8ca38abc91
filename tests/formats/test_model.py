"""A model's tensors hand out rows in their final order, and say which rows belong together."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.formats.model import ModelTensor
from ggufkit.formats.tensor import SourceFile, TensorRef


def tensor(folder: Path, order: np.ndarray | None, n_rows: int, n_per_row: int = 3) -> ModelTensor:
    path = folder / "weights"
    np.arange(n_rows * n_per_row, dtype=np.float32).tofile(path)
    ref = TensorRef("w", (n_rows, n_per_row), "F32", SourceFile(path), 0, 4 * n_rows * n_per_row)
    return ModelTensor("w", (n_rows, n_per_row), "F32", (ref,), order)


def rope_order(n_head: int, head_dim: int) -> np.ndarray:
    return np.arange(n_head * head_dim).reshape(n_head, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)


@pytest.mark.parametrize(("n_head", "head_dim"), [(1, 8), (4, 2), (4, 8), (3, 128)])
def test_rows_of_a_head_belong_together(n_head: int, head_dim: int, tmp_path: Path) -> None:
    order = rope_order(n_head, head_dim)
    assert tensor(tmp_path, order, n_head * head_dim).row_group == (head_dim if head_dim > 2 else 1)
    assert tensor(tmp_path, np.arange(7)[::-1].copy(), 7).row_group == 7
    assert tensor(tmp_path, None, 7).row_group == 1


def test_any_slab_has_the_rows_of_the_whole(tmp_path: Path) -> None:
    order = rope_order(4, 8)
    w = tensor(tmp_path, order, 32)
    whole = np.arange(96, dtype=np.float32).reshape(32, 3)[order]
    for start, stop in ((0, 32), (0, 1), (5, 9), (8, 16), (31, 32)):
        assert np.array_equal(w.rows(0, start, stop), whole[start:stop])
