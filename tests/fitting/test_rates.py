"""Rates of what was not measured are those of what is nearest."""

import pytest

from ggufkit.fitting.rates import Rates, assumed, nearest


def test_the_nearest_number_of_columns_answers() -> None:
    assert [nearest({256: 1.0, 1024: 2.0}, n) for n in (32, 600, 700, 4096)] == [1.0, 1.0, 2.0, 2.0]
    assert nearest({}, 256) == 0.0


def test_a_type_answers_for_itself_and_columns_for_a_type_that_was_not_measured() -> None:
    rates = Rates(
        1.0, 1.0, 1.0, 1.0, {256: 5.0}, encode={("Q4_K", 256): 10.0, ("Q4_K", 2048): 20.0, ("Q6_K", 512): 30.0}
    )
    assert rates.encode_rate("Q4_K", 300) == 10.0
    assert rates.encode_rate("Q6_K", 4096) == 30.0
    assert rates.encode_rate("Q2_K", 500) == 30.0
    assert rates.table_rate(9999) == 5.0
    assert rates.are_measured


def test_assumed_rates_grow_with_the_threads_but_for_the_disk() -> None:
    one, four = assumed(1), assumed(4)
    for name in ("reading", "back", "moments"):
        assert getattr(four, name) == pytest.approx(4 * getattr(one, name))
    assert four.table_rate(256) == pytest.approx(4 * one.table_rate(256))
    assert four.copy == one.copy
    assert not one.are_measured
