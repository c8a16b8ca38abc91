"""Chosen experts of two models put side by side, seen as the callbacks would give them: shares counted by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ggufkit.proof.routers import LayerAgreement, RouterWatch
from ggufkit.runtime.activations import Activations

X = np.zeros((1, 1, 1), dtype=np.float32)


def seen(watch: RouterWatch, side: int, layer: int, *experts: tuple[int, ...], name: str = "ffn_down_exps") -> None:
    chosen = np.array(experts, dtype=np.int32)
    watch._observer(side)(Activations(f"blk.{layer}.{name}.weight", X, chosen, 8, 0))


def test_shares_of_common_experts_and_of_equal_sets() -> None:
    watch = RouterWatch.off()
    seen(watch, 0, 10, (1, 2), (3, 4), (5, 6), (0, 7))
    seen(watch, 1, 10, (2, 1), (3, 5), (0, 1), (0, 7))  # same set in another order, one of two, none, same
    seen(watch, 0, 2, (0, 1))
    seen(watch, 1, 2, (0, 1))
    watch.settle()
    assert watch.result() == (LayerAgreement(2, 1.0, 1.0, 1), LayerAgreement(10, 5 / 8, 2 / 4, 4))


def test_steps_of_one_side_wait_for_the_other() -> None:
    watch = RouterWatch.off()
    seen(watch, 0, 0, (1, 2))
    seen(watch, 0, 0, (3, 4))
    watch.settle()
    assert watch.result() == ()
    seen(watch, 1, 0, (1, 2))
    watch.settle()
    assert watch.result() == (LayerAgreement(0, 1.0, 1.0, 1),)
    seen(watch, 1, 0, (1, 2))
    watch.settle()
    assert watch.result() == (LayerAgreement(0, 0.5, 0.5, 2),)


def test_what_cannot_be_compared_is_not_counted() -> None:
    watch = RouterWatch.off()
    seen(watch, 0, 0, (1, 2))
    seen(watch, 1, 0, (1, 2, 3))  # another number of experts a token
    for side in (0, 1):
        seen(watch, side, 1, (1, 2), name="ffn_up_exps")  # gate, up and down choose alike: one of them counts
    watch.settle()
    assert watch.result() == ()


def test_experts_are_copied_for_they_are_valid_during_the_call_only() -> None:
    watch, chosen = RouterWatch.off(), np.array([[1, 2]], dtype=np.int32)
    watch._observer(0)(Activations("blk.0.ffn_down_exps.weight", X, chosen, 8, 0))
    chosen[:] = 0
    seen(watch, 1, 0, (1, 2))
    watch.settle()
    assert watch.result() == (LayerAgreement(0, 1.0, 1.0, 1),)


def test_only_where_both_have_experts_is_there_anything_to_watch(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.workflows.quantize import quantize

    dense = tmp_path / "dense.gguf"
    quantize(QuantizeSettings(source=Path(__file__).parents[2] / "models/stories260K", output=dense, recipe="F16"))
    both, one = RouterWatch.of(tiny("BF16"), tiny("BF16")), RouterWatch.of(tiny("BF16"), dense)
    assert both.base_callback is not None and both.candidate_callback is not None
    assert one.base_callback is None and one.candidate_callback is None
