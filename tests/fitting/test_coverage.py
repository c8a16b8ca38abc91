"""Coverage counts a router once, leaves out stacks that see every token, and names experts that were hardly seen."""

import numpy as np

from ggufkit.fitting.coverage import MIN_TOKENS, coverage_of

FEW = MIN_TOKENS - 1
COUNTS = {
    "blk.0.attn_k_b.weight": np.array([5, 5]),  # a matrix a head
    "blk.1.ffn_up_exps.weight": np.array([FEW, 900, 0]),
    "blk.0.ffn_up_exps.weight": np.array([MIN_TOKENS, 700, 800]),
    "blk.0.ffn_down_exps.weight": np.array([1, 1, 1]),  # the same router again: the first stack of a layer counts
    "blk.0.attn_q.weight": np.array([2048]),
}


def test_one_row_a_layer_in_order() -> None:
    coverage = coverage_of(COUNTS)
    assert [(row.layer, row.counts.tolist()) for row in coverage.layers] == [
        (0, [MIN_TOKENS, 700, 800]), (1, [FEW, 900, 0]),
    ]  # fmt: skip
    assert coverage.n_tokens == 2048 and coverage_of(COUNTS, 7).n_tokens == 7


def test_experts_that_were_hardly_seen_are_named() -> None:
    coverage = coverage_of(COUNTS)
    assert coverage.under_visited == ((1, 0), (1, 2))
    assert coverage.notes[0].startswith(
        f"2 of 6 experts saw fewer than {MIN_TOKENS} tokens (layer 1 expert 0, layer 1 expert 2);"
    )


def test_many_are_counted_and_a_dense_model_has_nothing_to_say() -> None:
    assert "layer 0 expert 5 and 2 more)" in coverage_of({"blk.0.ffn_up_exps.weight": np.zeros(8, np.int64)}).notes[0]
    dense = coverage_of({"blk.0.ffn_up.weight": np.array([3])})
    assert (dense.layers, dense.notes, dense.n_tokens) == ((), (), 3)
