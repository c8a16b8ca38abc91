"""What `quantize` refuses and how it says so; what it makes of nothing."""

import numpy as np
import pytest

from quant import Encoder, dequantize, quant_type, quantize
from quant.errors import ImportanceError, NonFiniteError, ShapeError
from quant.kernels import KERNELS

Q4_K = quant_type("Q4_K")


@pytest.mark.parametrize("encoder", Encoder)
@pytest.mark.parametrize(("value", "said"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_weights_that_are_not_finite_name_row_and_column(value, said, encoder):
    w = np.ones((5, 512), dtype=np.float32)
    w[3, 300] = value
    with pytest.raises(NonFiniteError, match=rf"^row 3 column 300 is {said}$"):
        quantize(w, Q4_K, encoder=encoder)
    assert np.isfinite(dequantize(quantize(w, Q4_K, allow_nonfinite=True), Q4_K)).all()


def test_weights_beyond_float32_are_infinite():
    with pytest.raises(NonFiniteError, match="row 0 column 0 is inf"):
        quantize(np.full((1, 256), 1e300), Q4_K)


def test_finite_weights_whose_sum_overflows_are_finite():
    assert quantize(np.full((2, 256), 3e38, dtype=np.float32), Q4_K).shape == (2, 144)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "nan"), (np.inf, "inf"), (-1.0, "-1.0"), (1e300, "inf")])
def test_importance_that_cannot_be_names_its_column(value, said):
    importance = np.ones(256)
    importance[7] = value
    with pytest.raises(ImportanceError, match=rf"column 7 is {said}, wanted a finite number from 0 up"):
        quantize(np.ones((1, 256), dtype=np.float32), Q4_K, importance=importance)


def test_shapes_that_do_not_fit_say_what_was_wanted():
    ones = np.ones((2, 255), dtype=np.float32)
    with pytest.raises(ShapeError, match=r"255 columns does not divide into blocks of 256 \(Q4_K\)"):
        quantize(ones, Q4_K)
    with pytest.raises(ShapeError, match=r"\(n_rows, n_per_row\), got shape \(255,\)"):
        quantize(ones[0], Q4_K)
    with pytest.raises(ImportanceError, match=r"shape \(255,\), the rows have 256 columns"):
        quantize(np.ones((1, 256), dtype=np.float32), Q4_K, importance=ones[0])


@pytest.mark.parametrize("encoder", Encoder)
@pytest.mark.parametrize("name", KERNELS)
def test_no_rows_are_no_bytes(name, encoder):
    qtype = quant_type(name)
    for n_rows, n_per_row in [(0, 256), (3, 0)]:
        w = np.ones((n_rows, n_per_row), dtype=np.float32)
        assert quantize(w, qtype, encoder=encoder).shape == (n_rows, qtype.row_nbytes(n_per_row))
