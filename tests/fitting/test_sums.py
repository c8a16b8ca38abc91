"""Sums of squares by tensor, whoever shows the inputs and in whatever order."""

import numpy as np

from ggufkit.fitting.sums import SumsObserver, wants_block_weights
from ggufkit.runtime.activations import Activations

RNG = np.random.default_rng(3)


def shown(name: str, x: np.ndarray, *, source: int = 1) -> Activations:
    return Activations(name, x, None, 1, source)


def batch() -> np.ndarray:
    return RNG.standard_normal((6, 1, 8)).astype(np.float32)


def test_tensors_of_one_input_get_the_same_sums() -> None:
    observer, batches = SumsObserver(wants_block_weights), [batch() for _ in range(3)]
    for x in batches:
        for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
            observer(shown(name, x))
    wanted = sum(np.square(x.astype(np.float64)).sum(axis=(0, 1)) for x in batches)
    for one in observer.sums.values():
        np.testing.assert_allclose(one.sums[0], wanted, rtol=1e-6)
        assert one.counts.tolist() == [18]


def test_another_layer_at_the_same_address_has_sums_of_its_own() -> None:
    """Layer by layer, the next layer's inputs lie where the last one's did."""
    observer, x = SumsObserver(wants_block_weights), [batch(), batch()]
    for layer in (0, 1):
        observer.begin_group(0)
        observer(shown(f"blk.{layer}.attn_q.weight", x[layer], source=77))
    for layer in (0, 1):
        found = observer.sums[f"blk.{layer}.attn_q.weight"].sums[0]
        np.testing.assert_allclose(found, np.square(x[layer].astype(np.float64)).sum(axis=(0, 1)), rtol=1e-6)


def test_what_was_kept_is_gone_on_from() -> None:
    parts = [batch(), batch()]
    whole, first, second = (SumsObserver(wants_block_weights) for _ in range(3))
    for x in parts:
        whole(shown("blk.0.ffn_down.weight", x))
    first(shown("blk.0.ffn_down.weight", parts[0]))
    second.restore(first.state())
    second.begin_group(1)
    second(shown("blk.0.ffn_down.weight", parts[1]))
    one, other = (seen.sums["blk.0.ffn_down.weight"] for seen in (whole, second))
    assert np.array_equal(one.sums, other.sums) and np.array_equal(one.counts, other.counts)
