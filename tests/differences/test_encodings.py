"""The expected error of an honest encoding is its own; a type on the way is named."""

from dataclasses import replace

import numpy as np
import pytest

import quant
from ggufkit.differences.encodings import expected_error, requantized_from, sample_rows
from tests.differences.made import measured, model, tensor, weights

STACK = weights(4, 16, 64)
MATRIX = STACK[0]


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "Q4_1"])
def test_the_expected_error_of_an_honest_file_is_its_own(dtype: str) -> None:
    """Of the 16 rows in the middle alone: the others of the candidate are zero."""
    values, qtype = weights(40, 64), quant.quant_type(dtype)
    decoded = quant.dequantize(quant.quantize(values, qtype, encoder=quant.Encoder.GGML), qtype)
    decoded[:12], decoded[28:] = 0, 0
    (one,) = measured(model(tensor("w", values)), model(tensor("w", decoded)))
    alike = one._replace(candidate=replace(one.candidate, dtype=dtype))
    middle = slice(12, 28)
    wanted = float(np.linalg.norm((decoded - values)[middle]) / np.linalg.norm(values[middle]))
    assert expected_error(one.base, alike) == pytest.approx((wanted, wanted), rel=1e-5)


def test_the_expected_error_of_floats_is_their_rounding() -> None:
    (one,) = measured(model(tensor("w", MATRIX)), model(tensor("w", MATRIX * np.float32(1.25))))
    half = one._replace(candidate=replace(one.candidate, dtype="F16"))
    assert expected_error(half.base, half) == (1e-3, pytest.approx(0.25))
    coarse = half._replace(base=replace(one.base, dtype="Q8_0"))
    assert np.isnan(expected_error(coarse.base, coarse)[0])


def test_a_sample_is_the_middle_of_experts_from_first_to_last() -> None:
    values = np.arange(7 * 10 * 2, dtype=np.float32).reshape(7, 10, 2)
    sample = sample_rows(tensor("w", values), n_rows=4, n_expert=3)
    assert (sample.experts, sample.start, sample.stop) == ((0, 3, 6), 3, 7)
    assert np.array_equal(sample.rows, values[[0, 3, 6], 3:7].reshape(-1, 2))
    whole = sample_rows(tensor("w", values[0]))
    assert (whole.experts, whole.start, whole.stop) == ((0,), 0, 10)


def test_the_type_on_the_way_is_named_and_none_where_there_was_none() -> None:
    base = weights(16, 256)
    via = quant.dequantize(quant.quantize(base, quant.quant_type("Q4_0")), quant.quant_type("Q4_0"))
    original = tensor("w", base)
    assert requantized_from([(original, tensor("w", via, "Q8_0"))]) == "Q4_0"
    assert requantized_from([(original, tensor("w", base, "Q8_0"))]) is None
    assert requantized_from([]) is None
