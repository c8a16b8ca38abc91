"""What tokens count for: the square of the gradient at their product; what that does to moments and bytes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import quant
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.moments import MomentsObserver
from ggufkit.fitting.token_weights import FLOOR, GradientSums, Stiffness, TokenWeights, measure_weights
from ggufkit.runtime.activations import Activations
from ggufkit.workflows.quantize import quantize
from quant import feedback
from quant.covariance import Covariance, squares

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ggufkit" / "data" / "text" / "calibration.txt").read_text()
N_CTX = 32


def stiffness(weights: np.ndarray, chunks: list[int]) -> Stiffness:
    return Stiffness(weights.astype(np.float32), np.array(chunks), 1.0, np.ones(1))


def without_floor(weights: np.ndarray) -> np.ndarray:
    assert weights.min() >= FLOOR
    return (weights - FLOOR) / (1 - FLOOR)


def test_measured_chunks_have_their_own_weights_and_others_the_mean_of_their_position() -> None:
    rng = np.random.default_rng(0)
    own = rng.random((2, N_CTX, 1))
    own[:, 0, 0] = (50, 70)
    weights = TokenWeights({"w": stiffness(own, [1, 3])}, 4, N_CTX)
    got = without_floor(weights.of("w", 0, 4 * N_CTX)).reshape(4, N_CTX)
    assert np.allclose(got[[1, 3]], own[..., 0])
    assert np.array_equal(got[0], got[2])
    assert got[0, 0] == pytest.approx(60) and got[0, 3] == pytest.approx(own[:, 3].mean())
    assert np.allclose(got[0, 8:], own[:, 8:].mean())
    part = without_floor(weights.of("w", N_CTX - 5, 20))
    assert np.array_equal(part, got.reshape(-1, 1)[N_CTX - 5 : N_CTX + 15])
    assert weights.of("other", 0, 4) is None


def test_chunks_of_which_only_the_beginning_was_measured() -> None:
    own = np.ones((1, N_CTX // 2, 1))
    own[0, 0], own[0, 10] = 9, 4
    got = without_floor(TokenWeights({"w": stiffness(own, [0])}, 1, N_CTX).of("w", 0, N_CTX))[:, 0]
    assert np.allclose(got[: N_CTX // 2], own[0, :, 0])
    assert np.allclose(got[N_CTX // 2 :], own[0, 8:].mean())


@pytest.mark.parametrize("n_slot", [1, 2])
def test_weighted_moments_are_sums_over_tokens_and_their_experts(n_slot: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, n_slot, 8)).astype(np.float32)
    experts = np.stack([rng.permutation(3)[:2] for _ in range(50)]).astype(np.int32)
    weights = rng.random((50, 2)).astype(np.float32)
    part = Covariance.zeros(3, 8)
    part.add(x, experts, weights)
    for expert in range(3):
        token, slot = np.nonzero(experts == expert)
        rows, s = x[token, slot if n_slot > 1 else 0], weights[token, slot]
        assert part.mean(expert)[0] == pytest.approx((rows * s[:, None]).T @ rows / s.sum(), rel=1e-4, abs=1e-5)
        assert part.mass[expert] == pytest.approx(s.sum()) and part.counts[expert] == len(token)


def test_a_token_that_all_look_at_keeps_its_product() -> None:
    """One token in 32, with a small input, always the same: spent where all count alike, kept where weighed."""
    rng = np.random.default_rng(2)
    n_chunk, width = 40, 64
    x = rng.standard_normal((n_chunk, N_CTX, width)).astype(np.float32)
    x[:, 0] = 0.3 * rng.standard_normal(width)
    own = np.full((n_chunk, N_CTX, 1), 0.02)
    own[:, 0] = N_CTX
    w = rng.standard_normal((32, width)).astype(np.float32)
    errors = []
    for weights in (None, TokenWeights({"w": stiffness(own, list(range(n_chunk)))}, n_chunk, N_CTX)):
        observer = MomentsObserver(frozenset(("w",)), weights=weights)
        for chunk in x:
            observer(Activations("w", chunk[:, None], None, 1, 1))
        known = observer.moments["w"].of_expert(0)
        qtype = quant.quant_type("Q4_0")
        error = quant.dequantize(feedback.encode(w, qtype, known.curve, n_refine=2), qtype) - w
        errors.append(float(np.square(error @ x[0, 0]).mean()))
    assert errors[1] < 0.2 * errors[0]


def test_gradients_are_the_same_whatever_the_threads(tmp_path: Path) -> None:
    path = tmp_path / "stories.gguf"
    quantize(QuantizeSettings(source=ROOT / "models" / "stories260K", output=path, recipe="F32"))
    made = [
        measure_weights(Corpus(path, TEXT, n_tokens=8 * 64, n_ctx=64, threads=n), lambda name: True, max_chunks=2)
        for n in (1, 3)
    ]
    assert "blk.0.attn_v.weight" in made[0].by_name and not made[0].notes
    for name, one in made[0].by_name.items():
        other = made[1].by_name[name]
        assert np.array_equal(one.weights, other.weights) and one.mean == other.mean
        assert np.array_equal(one.rows, other.rows) and one.rows.sum() == pytest.approx(1)
        assert one.weights.mean() == pytest.approx(1, rel=1e-4)


def test_products_of_gradients_are_summed_within_groups_of_rows() -> None:
    rng = np.random.default_rng(5)
    given = rng.standard_normal((2, 70, 2, 10)).astype(np.float32)  # chunks, tokens, slots, rows
    with ThreadPoolExecutor(3) as pool:
        sums = [GradientSums(lambda _: True, groups, each) for groups, each in (({"w": 4}, map), ({"w": 4}, pool.map))]
        for one in sums:
            for gradient in given:
                one("w", gradient, None)
                one("other", gradient, None)
    found = sums[0].stiffness(np.arange(2), 70)
    assert found["other"].together is None
    rows = given.reshape(-1, 10)
    blocks = squares(found["w"].together, 4)
    for number, block in enumerate(blocks):
        part = rows[:, 4 * number : 4 * number + 4]
        assert np.allclose(block[: part.shape[1], : part.shape[1]], part.T @ part, rtol=1e-4, atol=1e-3)
    assert not blocks[2, 2:].any(), "rows that are not there"
    assert np.array_equal(found["w"].together, sums[1].stiffness(np.arange(2), 70)["w"].together)


def test_what_goes_together_is_kept_with_all_else() -> None:
    one = Stiffness(np.ones((1, 4, 1), np.float32), np.arange(1), 1.0, np.ones(1), np.ones((1, 3), np.float32))
    again = TokenWeights.restored(TokenWeights({"w": one}, 1, 4).state())
    assert np.array_equal(again.by_name["w"].together, one.together)
