"""Errors of tensors made by hand, in slabs of a few rows; ggml's own check of blocks."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.differences import weights as module
from ggufkit.differences.weights import TensorError, unreadable_blocks
from tests.differences.made import measured, model, tensor, weights
from tests.formats.build import gguf_bytes, info


@pytest.mark.parametrize("slab", [8, 24, 1 << 20])
def test_errors_of_experts_and_of_the_whole_whatever_the_slab(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLAB_WEIGHTS", slab)
    values = np.ones((2, 5, 8), dtype=np.float32)
    changed = values.copy()
    changed[0] *= 1.5
    changed[1, 4, 0] = np.inf
    (one,) = measured(model(tensor("w", values)), model(tensor("w", changed)))
    whole = (40 * 0.25 / 79) ** 0.5  # the pair of the infinite one counts on neither side
    row = one.row(0.25)
    assert row.error == pytest.approx(whole)
    assert row.experts == pytest.approx((0.5, 0.0))
    assert (row.name, row.shape, row.type_base, row.type, row.n_bad, row.expected) == (
        "w",
        (2, 5, 8),
        "F32",
        "F32",
        1,
        0.25,
    )
    assert [sums.n_bad.tolist() for sums in one.sums] == [[0] * 5, [0, 0, 0, 0, 1]]


def test_an_error_of_nothing_that_is_finite_is_not_known() -> None:
    changed = np.ones((2, 3, 4), dtype=np.float32)
    changed[1] = np.nan
    (one,) = measured(model(tensor("w", np.ones((2, 3, 4)))), model(tensor("w", changed)))
    row = one.row(0.25)
    assert (row.error, row.experts, row.n_bad) == (0.0, (0.0, None), 12)


def test_an_error_relative_to_nothing_is_not_known() -> None:
    (one,) = measured(model(tensor("w", np.zeros((2, 4)))), model(tensor("w", np.ones((2, 4)))))
    assert one.row(float("nan")) == TensorError("w", (2, 4), "F32", "F32", None, (), 0, None)


def test_only_what_both_have_in_one_shape_is_measured_and_told() -> None:
    seen: list[tuple[str, int]] = []
    base = model(*(tensor(name, weights(3, 4)) for name in ("a", "b", "c")))
    candidate = model(
        tensor("c", weights(3, 4)), tensor("b", weights(4, 4)), tensor("x", weights(3, 4)), base.tensors[0]
    )
    found = measured(base, candidate, lambda name, n: seen.append((name, n)))
    assert [one.candidate.name for one in found] == ["c", "a"]
    assert seen == [("c", 12), ("a", 12)]


def test_an_output_of_its_own_is_held_against_the_embeddings_only_where_they_are_tied() -> None:
    embd, output, own = (
        tensor(n, weights(3, 4, seed=i)) for i, n in enumerate(("token_embd.weight", *["output.weight"] * 2))
    )
    (tied,) = measured(model(embd), model(output))
    assert tied.base.name == "token_embd.weight"
    (apart,) = measured(model(embd, own), model(output))
    assert apart.base is own


@pytest.mark.parametrize("at", [None, 0, 63])
def test_blocks_that_ggml_cannot_read_are_named(
    at: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLAB_WEIGHTS", 32)
    values = np.ones(64, dtype="<f4")
    if at is not None:
        values[at] = np.nan
    path = tmp_path / "a.gguf"
    data = np.ones(64, dtype="<f4").tobytes() + values.tobytes()
    path.write_bytes(gguf_bytes([], [info("good", [16, 4], 0), info("bad", [16, 4], 256)], data))
    assert [one.where for one in unreadable_blocks(path)] == ([] if at is None else ["bad"])
    assert all(
        (one.kind, one.message) == ("nan", "bad has weights that are not finite") for one in unreadable_blocks(path)
    )
