"""Our encoders against llama.cpp's: error, decoders, cuts, extreme values. Compiling the kernels dominates the time."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest

from quant import Encoder, dequantize, quant_type, quantize
from quant._ggml import blocks_are_valid
from quant.kernels import KERNELS

MODEL = Path(__file__).parents[2] / "models" / "tiny-mixtral"
N_PER_ROW = 1024
SLACK = 1 + 1e-6


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _outliers() -> np.ndarray:
    w = _rng(4).normal(size=(6, N_PER_ROW))
    w[:, ::97] *= 100
    return w


def _weights() -> dict[str, np.ndarray]:
    rows = np.ones((6, N_PER_ROW))
    return {
        "gaussian": _rng(1).normal(size=rows.shape) * 0.02,
        "student_t4": _rng(2).standard_t(4, size=rows.shape) * 0.02,
        "laplace": _rng(3).laplace(size=rows.shape) * 0.02,
        "outliers": _outliers() * 0.02,
        "constant": rows * np.array([[1.0], [-1.0], [0.1], [-0.3], [1e-5], [123.4]]),
        "zero": rows * 0,
        "sparse": np.where(_rng(6).random(rows.shape) < 0.02, _rng(7).normal(size=rows.shape), 0),
        "tiny": _rng(8).normal(size=rows.shape) * 1e-6,
        "denormal": _rng(9).normal(size=rows.shape) * 1e-40,
    }


def _importances() -> dict[str, np.ndarray | None]:
    lognormal = np.exp(_rng(11).normal(size=N_PER_ROW) * 1.5)
    return {
        "none": None,
        "flat": np.ones(N_PER_ROW),
        "lognormal": lognormal,
        "some_zeros": np.where(_rng(12).random(N_PER_ROW) < 0.3, 0, lognormal),
        "zeros": np.zeros(N_PER_ROW),
    }


WEIGHTS = {name: w.astype(np.float32) for name, w in _weights().items()}
IMPORTANCES = {name: None if v is None else v.astype(np.float32) for name, v in _importances().items()}


def _trained_weights() -> list[np.ndarray]:
    """The first rows of some matrices of the shipped model; safetensors' numpy reader has no bfloat16."""
    data = (MODEL / "model-00001-of-00002.safetensors").read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    tensors = [t for name, t in json.loads(data[8 : 8 + n_header]).items() if name != "__metadata__"]
    matrices = [t for t in tensors if len(t["shape"]) == 2 and t["shape"][1] == 256]
    bits = [np.frombuffer(data, "<u2", 64 * 256, 8 + n_header + t["data_offsets"][0]) for t in matrices[::12]]
    return [(b.astype(np.uint32) << 16).view(np.float32).reshape(64, 256) for b in bits]


def _error(w: np.ndarray, blocks: np.ndarray, name: str, importance: np.ndarray | None) -> float:
    miss = (w.astype(np.float64) - dequantize(blocks, quant_type(name))) ** 2
    return float(miss.sum() if importance is None else (miss * importance.astype(np.float64)).sum())


def _errors(w: np.ndarray, name: str, importance: np.ndarray | None) -> tuple[float, float]:
    ours, theirs = (quantize(w, quant_type(name), importance=importance, encoder=who) for who in Encoder)
    return _error(w, ours, name, importance), _error(w, theirs, name, importance)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("name", KERNELS)
def test_error_is_at_most_that_of_llama_cpp(name, importance):
    for weights, w in WEIGHTS.items():
        ours, theirs = _errors(w, name, IMPORTANCES[importance])
        assert ours <= theirs * SLACK, f"{weights}: {ours} > {theirs} (ratio {ours / theirs:.6f})"


def _structured() -> dict[str, np.ndarray]:
    """Rows that are no noise around zero: norms, ramps, trained ternary weights, scales that differ by sub-block."""
    shape = (6, N_PER_ROW)
    steep = np.exp(2 * _rng(41).normal(size=(6, N_PER_ROW // 16))).repeat(16, axis=1)
    return {
        "near_one": 1 + 0.01 * _rng(42).normal(size=shape),
        "near_minus_one": -1 + 0.03 * _rng(43).normal(size=shape),
        "ramp": np.tile(np.linspace(-1, 1, N_PER_ROW), (6, 1)),
        "ternary": _rng(44).integers(-1, 2, size=shape) * 0.1,
        "steps": _rng(45).normal(size=(6, N_PER_ROW // 32)).repeat(32, axis=1)
        * (1 + 0.01 * _rng(46).normal(size=shape)),
        "uneven_scales": _rng(47).normal(size=shape) * steep,
    }


@pytest.mark.parametrize("importance", ["none", "flat", "lognormal"])
@pytest.mark.parametrize("name", KERNELS)
def test_error_on_structured_rows_is_about_that_of_llama_cpp_or_less(name, importance):
    vector = IMPORTANCES[importance]
    for weights, rows in _structured().items():
        w = rows.astype(np.float32)
        ours, theirs = _errors(w, name, vector)
        signal = float((rows**2 * (1 if vector is None else vector)).sum())
        assert ours <= 1.02 * theirs + 1e-5 * signal, (
            f"{weights}: {ours / theirs:.3f} times, {ours / signal:.2g} of all"
        )


@pytest.mark.parametrize("name", KERNELS)
def test_error_on_trained_weights_is_at_most_that_of_llama_cpp(name):
    importance = np.exp(_rng(13).normal(size=256)).astype(np.float32)
    matrices = _trained_weights()
    assert len(matrices) >= 3
    for w in matrices:
        for vector in (None, importance):
            ours, theirs = _errors(w, name, vector)
            assert ours <= theirs * SLACK


@pytest.mark.parametrize("name", ["Q5_1", "Q4_1", "Q5_K", "Q4_K", "Q2_K"])
@pytest.mark.parametrize("center", [1, -1, 100])
def test_types_with_a_minimum_keep_their_digits_far_from_zero(name, center):
    w = (_rng(5).normal(size=(6, N_PER_ROW)) * 0.01 + center).astype(np.float32)
    ours, theirs = _errors(w, name, IMPORTANCES["lognormal"])
    assert ours <= theirs * SLACK


@pytest.mark.parametrize("name", KERNELS)
def test_rows_encode_independently(name):
    w = _rng(21).standard_t(5, size=(37, 512)).astype(np.float32)
    importance = np.exp(_rng(22).normal(size=512)).astype(np.float32)
    for vector in (None, importance):
        whole = quantize(w, quant_type(name), importance=vector)
        parts = [quantize(w[a:b], quant_type(name), importance=vector) for a, b in [(0, 1), (1, 8), (8, 36), (36, 37)]]
        np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("name", KERNELS)
def test_large_arrays_encode_alike_whole_and_in_threads(name):
    w = _rng(25).standard_t(5, size=(600, 512)).astype(np.float32)  # more than a kernel searches at a time
    importance = np.exp(_rng(26).normal(size=512)).astype(np.float32)
    whole = quantize(w, quant_type(name), importance=importance)
    with ThreadPoolExecutor(4) as pool:
        parts = list(
            pool.map(lambda r: quantize(w[r : r + 150], quant_type(name), importance=importance), range(0, 600, 150))
        )
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("name", KERNELS)
def test_gguf_decodes_to_the_same_values(name):
    qtype = quant_type(name)
    blocks = quantize(WEIGHTS["student_t4"], qtype)
    decoded = gguf.dequantize(blocks, gguf.GGMLQuantizationType(qtype.ggml_type))
    np.testing.assert_array_equal(decoded, dequantize(blocks, qtype))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-9, 1e4, 1e9, 1e19, 3e38])
def test_scales_stay_finite(name, magnitude):
    w = np.clip(_rng(23).normal(size=(3, 512)), -1, 1).astype(np.float32) * np.float32(magnitude)
    w[1, ::2] = 0
    steep = np.logspace(-38, 38, 512).astype(np.float32)
    for importance in (None, steep):
        blocks = quantize(w, quant_type(name), importance=importance)
        assert blocks_are_valid(quant_type(name).ggml_type, blocks)
        assert np.isfinite(dequantize(blocks, quant_type(name))).all()


def test_halves_round_as_numpy_rounds():
    import numba

    from quant.kernels.halves import round_to_half, store_halves

    @numba.njit
    def store(values, out):
        rounded = np.empty_like(values)
        for i in range(values.size):
            rounded[i] = round_to_half(values[i])
        store_halves(rounded, 0, out)

    exponents = _rng(24).uniform(-30, 17, size=4000)
    values = np.concatenate([2.0**exponents, np.arange(4096) * 2.0**-25, 1 + np.arange(64) * 2.0**-12, [0.0, 65519.0]])
    values = np.concatenate([values, -values]).astype(np.float32)
    out = np.zeros((values.size, 2), dtype=np.uint8)
    store(values, out)
    want = np.clip(values, -65504, 65504).astype(np.float16)
    np.testing.assert_array_equal(out.view(np.float16)[:, 0], want)


def test_importing_quant_does_not_import_numba():
    code = "import sys, quant; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
