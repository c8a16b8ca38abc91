"""Importance files added up, by hand."""

import numpy as np
import pytest

from ggufkit.errors import ImatrixError, UsageError
from ggufkit.fitting.merging import as_imatrix, coverage_in, merge
from ggufkit.formats.imatrix import Imatrix, ImatrixEntry
from quant.importance import InputSums

NAME = "blk.0.ffn_up_exps.weight"


def file(text: str, sums: list[list[float]], counts: list[float], chunks: tuple[int, int] = (2, 512)) -> Imatrix:
    entry = ImatrixEntry(np.array(sums, dtype=np.float32), np.array(counts, dtype=np.float32))
    return Imatrix((text,), *chunks, {NAME: entry})


def test_sums_and_counts_are_added_and_texts_named_once() -> None:
    one = file("a.txt", [[1, 2, 3], [4, 5, 6]], [10, 0])
    total = merge([one, file("b.txt", [[1, 1, 1], [2, 2, 2]], [5, 7], (4, 256)), one])
    assert total.entries[NAME].sums.tolist() == [[3, 5, 7], [10, 12, 14]]
    assert total.entries[NAME].counts.tolist() == [25, 7]
    assert total.datasets == ("a.txt", "b.txt")
    assert (total.chunk_count, total.chunk_size) == ((2 * 512 + 4 * 256 + 2 * 512) // 512, 512)


def test_a_tensor_of_one_file_alone_stays_as_it_is() -> None:
    sums = {"output.weight": InputSums(np.array([[4.0, 9.0]]), np.array([3]))}
    other = as_imatrix(sums, ("c.txt",), 1, 512)
    total = merge([file("a.txt", [[1.0]], [1]), other])
    assert total.entries["output.weight"].sums.tolist() == [[4, 9]]
    assert list(total.entries) == [NAME, "output.weight"]


def test_coverage_counts_the_tokens_of_each_expert() -> None:
    coverage = coverage_in(file("a.txt", [[1, 1], [1, 1]], [300, 12]))
    assert coverage.under_visited == ((0, 1),)


def test_files_of_two_models_are_refused_and_so_is_nothing() -> None:
    with pytest.raises(ImatrixError, match=r"ffn_up_exps\.weight has shape \(1, 2\) in one file, \(1, 3\) in another"):
        merge([file("a.txt", [[1, 2, 3]], [1]), file("b.txt", [[1, 2]], [1])])
    with pytest.raises(UsageError, match="nothing to merge"):
        merge([])
