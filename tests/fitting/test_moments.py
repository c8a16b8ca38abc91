"""Moments in two parts of the text: what is held out, what is shared, and what is kept between runs."""

import numpy as np
import pytest

import quant
from ggufkit.fitting import walks
from ggufkit.fitting.moments import HOLD_OUT_EVERY, MomentsObserver
from ggufkit.fitting.walks import moments_nbytes
from ggufkit.runtime.activations import Activations
from quant import feedback
from quant.covariance import squares
from quant.curvature import damping_for

RNG = np.random.default_rng(5)
N = 16
NAMES = frozenset({"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_up_exps.weight"})


def group() -> list[Activations]:
    """What the model shows of four tokens: an input for q and k, and one that goes to two of three experts."""
    x, y = (RNG.standard_normal((4, 1, N)).astype(np.float32) for _ in range(2))
    experts = np.array([[0, 1], [1, 2], [0, 2], [0, 1]], dtype=np.int32)
    return [
        Activations("blk.0.attn_q.weight", x, None, 1, 1),
        Activations("blk.0.attn_k.weight", x, None, 1, 1),
        Activations("blk.0.ffn_up_exps.weight", y, experts, 3, 2),
    ]


def show(observer: MomentsObserver, groups: list[list[Activations]], first: int = 0) -> None:
    for index, seen in enumerate(groups, first):
        observer.begin_group(index)
        for one in seen:
            observer(one)


def upper(x: np.ndarray) -> np.ndarray:
    return np.triu(x.reshape(-1, N).T.astype(np.float64) @ x.reshape(-1, N))


def test_one_group_in_five_is_held_out() -> None:
    groups = [group() for _ in range(2 * HOLD_OUT_EVERY)]
    observer = MomentsObserver(NAMES)
    show(observer, groups)
    pair = observer.moments["blk.0.attn_q.weight"]
    held = [seen[0].x for index, seen in enumerate(groups) if index % HOLD_OUT_EVERY == 1]
    fitted = [seen[0].x for index, seen in enumerate(groups) if index % HOLD_OUT_EVERY != 1]
    assert (pair.fit.counts.tolist(), pair.held_out.counts.tolist()) == ([32], [8])
    np.testing.assert_allclose(8 * np.triu(pair.held_out.mean(0)[0]), upper(np.concatenate(held)), atol=1e-4)
    np.testing.assert_allclose(32 * np.triu(pair.fit.mean(0)[0]), upper(np.concatenate(fitted)), atol=1e-4)


def test_all_of_the_text_is_the_mean_of_both_parts() -> None:
    groups = [group() for _ in range(2 * HOLD_OUT_EVERY)]
    observer = MomentsObserver(NAMES)
    show(observer, groups)
    means = observer.moments["blk.0.attn_q.weight"].means_of(0, whole=True)
    x = np.concatenate([seen[0].x for seen in groups]).reshape(-1, N).astype(np.float64)
    assert means.held_out is None
    np.testing.assert_allclose(squares(means.fit, means.width)[0], x.T @ x / len(x), atol=1e-5)
    assert means.damping == damping_for(len(x), N) < observer.moments["blk.0.attn_q.weight"].means_of(0).damping


def test_very_wide_rows_are_known_in_blocks_whose_last_is_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "MAX_WIDTH", 1024)
    name, n = "blk.0.ffn_down.weight", 1280  # 768 and 512
    observer = MomentsObserver(frozenset({name}))
    shown = [RNG.standard_normal((64, 1, n)).astype(np.float32) for _ in range(HOLD_OUT_EVERY)]
    show(observer, [[Activations(name, x, None, 1, 1)] for x in shown])
    again = MomentsObserver(frozenset({name}))
    again.restore(observer.state())
    known = again.moments[name].of_expert(0)
    assert known.held_out is not None and (known.curve.width, len(known.curve.moments), len(known.importance)) == (
        768,
        2,
        n,
    )
    x = shown[1].reshape(-1, n).astype(np.float64)
    np.testing.assert_allclose(known.held_out[1, :512, :512], (x.T @ x)[768:, 768:] / len(x), atol=1e-4)
    assert not known.held_out[1, 512:].any()
    w = RNG.standard_normal((8, n)).astype(np.float32)
    qtype = quant.quant_type("Q4_K")
    fitted, plain = feedback.encode(w, qtype, known.curve, n_refine=2), quant.quantize(w, qtype)
    seen, other = (feedback.row_errors(w, blocks, qtype, known.curve.moments).sum() for blocks in (fitted, plain))
    assert 0 < seen < other and moments_nbytes((1, n)) == 2 * observer.moments[name].fit.sums.nbytes


def test_an_expert_leans_on_its_layer_in_both_parts() -> None:
    observer = MomentsObserver(NAMES)
    show(observer, [group() for _ in range(HOLD_OUT_EVERY)])
    pair = observer.moments["blk.0.ffn_up_exps.weight"]
    mass = pair.fit.mass + pair.held_out.mass
    sums = sum(part.mass[e] * part.mean(e)[0] for part in (pair.fit, pair.held_out) for e in range(3))
    own = sum(part.mass[1] * part.mean(1)[0] for part in (pair.fit, pair.held_out))
    wanted = (own + N * sums / mass.sum()) / (mass[1] + N)
    np.testing.assert_allclose(squares(pair.means_of(1, whole=True).fit, N)[0], wanted, rtol=1e-5, atol=1e-6)


def test_tensors_of_one_input_share_their_moments() -> None:
    observer = MomentsObserver(NAMES)
    show(observer, [group()])
    assert observer.moments["blk.0.attn_q.weight"] is observer.moments["blk.0.attn_k.weight"]
    assert observer.moments["blk.0.ffn_up_exps.weight"].fit.sums.shape == (3, 1, N * N)


def test_experts_count_their_own_tokens() -> None:
    observer = MomentsObserver(NAMES)
    show(observer, [group(), group()])
    assert observer.counts["blk.0.ffn_up_exps.weight"].tolist() == [6, 6, 4]
    shares = observer.moments["blk.0.ffn_up_exps.weight"].shares()
    assert shares == pytest.approx([6 / 16, 6 / 16, 4 / 16])


def test_what_was_kept_is_gone_on_from_to_the_same_bits() -> None:
    groups = [group() for _ in range(7)]
    whole, first, second = (MomentsObserver(NAMES) for _ in range(3))
    show(whole, groups)
    show(first, groups[:3])
    second.restore({key: value.copy() for key, value in first.state().items()})
    show(second, groups[3:], first=3)
    for name in NAMES:
        for part in ("fit", "held_out"):
            one, other = (getattr(seen.moments[name], part) for seen in (whole, second))
            assert np.array_equal(one.sums, other.sums) and np.array_equal(one.counts, other.counts)
            assert np.array_equal(one.mass, other.mass)
    assert second.moments["blk.0.attn_q.weight"] is second.moments["blk.0.attn_k.weight"]
    assert np.array_equal(whole.counts["blk.0.ffn_up_exps.weight"], second.counts["blk.0.ffn_up_exps.weight"])
