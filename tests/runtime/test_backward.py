"""Gradients through what llama.cpp computed, against how its logits really move when a product is changed."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.runtime import state_gradients
from ggufkit.runtime.backward import Backward
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.library import load
from ggufkit.runtime.loading import Device
from ggufkit.runtime.patches import WeightPatch
from ggufkit.runtime.tape import Tape
from ggufkit.workflows.quantize import quantize

sys.path.insert(0, str(Path(__file__).parents[1] / "architectures"))
import tiny as families

N = 24
_CURVED = (
    "gemma",
    "deepseek",
)  # scores that are squashed, experts that tip in groups: a shorter step is straighter, and nearer to F16
TINY_MIXTRAL = Path(__file__).parents[2] / "models" / "tiny-mixtral"


def opened(path, callback):
    return Engine.open(
        path, n_ctx=N, n_batch=N, n_ubatch=N, n_outputs=N, threads=2, device=Device.CPU, flash_attn=False,
        use_extra_bufts=False, eval_callback=callback,
    )  # fmt: skip


def tokens_of(engine):
    return np.random.default_rng(1).integers(3, engine.vocab.n_vocab, N).astype(np.int32)


def decode(engine, tokens):
    engine.clear()
    engine.decode(tokens, 0, logits=1)
    return engine.logits(N).astype(np.float64)


def taken_back(path, direction_seed=2, threads=2):
    """Inputs and gradients of every product, by name; direction of the logits; operations without a rule."""
    tape, got = Tape(load()), {}
    with opened(path, tape.callback) as engine:
        tape.clear()
        logits = decode(engine, tokens_of(engine))
        tape.reraise()
        direction = np.random.default_rng(direction_seed).standard_normal(logits.shape).astype(np.float32)
        back = Backward(tape, lambda name, g, experts: got.__setitem__(name, (g.copy(), experts)), threads)
        back(direction)
        back.close()
    return got, direction, back.ended_at


def moved(path, name, difference, direction):
    """How far the logits really move along `direction`, by central differences."""
    patch = WeightPatch(load())
    with opened(path, patch.callback) as engine:
        sides = []
        for sign in (1, -1):
            patch.differences = {name: [sign * one for one in difference]}
            sides.append(decode(engine, tokens_of(engine)))
            patch.reraise()
    return float(((sides[0] - sides[1]) / 2 * direction).sum())


def inputs_of(path, names):
    from ggufkit.runtime.activations import ActivationTap

    seen = {}
    tap = ActivationTap(load(), lambda a: seen.__setitem__(a.name, a.x.copy()), names.__contains__)
    with opened(path, tap.callback) as engine:
        decode(engine, tokens_of(engine))
        tap.reraise()
    return seen


def all_experts_used(path):
    """The same model with every expert answering, so that nothing tips over; a change of one number in its header."""
    data = bytearray(path.read_bytes())
    found = data.find(b"expert_count")
    n_expert = struct.unpack_from("<I", data, found + len(b"expert_count") + 4)[0] if found >= 0 else 0
    if n_expert:
        at = data.index(b"expert_used_count") + len(b"expert_used_count") + 4  # behind the type of the value
        struct.pack_into("<I", data, at, n_expert)
        path.write_bytes(data)
    return path


def check(path, names, scale=0.05, rel=0.05):
    """A step along the gradient itself moves the logits by its length: far more
    than F16 keys and values can blur."""
    got, direction, ended = taken_back(path)
    assert not ended
    inputs = inputs_of(path, set(names))
    for name in names:
        g, experts = got[name]
        x = np.broadcast_to(inputs[name], (*g.shape[:2], inputs[name].shape[2]))
        stack = np.zeros((1 if experts is None else int(experts.max()) + 1, g.shape[2], x.shape[2]))
        for token, slot in np.ndindex(g.shape[:2]):
            stack[0 if experts is None else experts[token, slot]] += np.outer(g[token, slot], x[token, slot])
        length = np.linalg.norm(stack)
        ratios = []
        for size in scale * np.array([1, 1 / 4, 1 / 16, 1 / 64, 60]):  # too long is curved, too short is blurred
            step = (size * stack / length).astype(np.float32)
            ratios.append(moved(path, name, step, direction) / (size * length))
            if ratios[-1] == pytest.approx(1, rel=rel):
                break
        assert ratios[-1] == pytest.approx(1, rel=rel), (name, ratios)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    path = tmp_path_factory.mktemp("backward") / "tiny.gguf"
    quantize(QuantizeSettings(source=TINY_MIXTRAL, output=path, recipe="F32"))
    return all_experts_used(path)


def test_experts_and_attention(mixtral):
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    check(mixtral, [f"blk.{i}.{part}.weight" for i in (0, 3) for part in parts], scale=0.015)


@pytest.mark.parametrize("case", families.CASES)
def test_families(case, tmp_path):
    path = tmp_path / "model.gguf"
    quantize(QuantizeSettings(source=families.build(case, tmp_path), output=path, recipe="F32"))
    got, _, ended = taken_back(all_experts_used(path))
    if case.startswith(("qwen3-next", "qwen3.5")):  # a gated delta net has no rule: what lies behind it is not seen
        assert ended == {"GATED_DELTA_NET"}
        return
    dense = [name for name, (_, experts) in got.items() if experts is None and name.startswith("blk.0.")]
    scale, rel = (0.015, 0.15) if case.startswith(_CURVED) else (0.05, 0.05)
    check(path, sorted(dense), scale, rel)


def test_threads_change_nothing(mixtral):
    one, two = (taken_back(mixtral, threads=n)[0] for n in (1, 3))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name][0], two[name][0]) for name in one)


def test_heads_of_a_state_a_few_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    quantize(QuantizeSettings(source=families.build("nemotron-nano-9b-v2", tmp_path), output=path, recipe="F32"))
    whole = taken_back(path)[0]
    monkeypatch.setattr(state_gradients, "_HEADS_AT_ONCE", 3)
    parts = taken_back(path)[0]
    for name, (gradient, _) in whole.items():
        assert parts[name][0] == pytest.approx(gradient, rel=1e-4, abs=1e-5 * float(np.abs(gradient).max())), name
