"""How the next token is chosen: llama.cpp's C samplers, chained in llama.cpp's default order.

    logit bias -> penalties -> dry -> top_k -> typical -> top_p -> min_p -> temperature -> draw

At temperature 0 the chain is bias, penalties, dry and the largest logit. Does not know contexts or text.
"""

import ctypes
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ggufkit.errors import UsageError
from ggufkit.runtime import library
from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.engine import Engine

MAX_SEED = 2**32 - 2  # llama.cpp draws a seed of its own for the next number: LLAMA_DEFAULT_SEED
DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of the chain; the defaults are llama.cpp's. A value in parentheses switches its sampler off.

    seed            None draws one from the system
    temperature     (0: the most likely token, always)
    top_k           (0)
    top_p           (1)
    min_p           (0)
    typical_p       (1)
    repeat_penalty  (1), frequency_penalty (0), presence_penalty (0), over the last `penalty_last_n` tokens
    dry_multiplier  (0), with dry_base and dry_allowed_length; over the last `penalty_last_n` tokens
    logit_bias      token id -> what is added to its logit; -inf forbids it
    """

    seed: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "temperature": (0, 100), "top_k": (0, 1 << 24), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1),
            "repeat_penalty": (1e-3, 100), "frequency_penalty": (-100, 100), "presence_penalty": (-100, 100),
            "penalty_last_n": (0, 1 << 20), "dry_multiplier": (0, 100), "dry_base": (1, 100),
            "dry_allowed_length": (0, 1 << 20),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails too
                raise UsageError(f"{name} is {value}; it must be between {low:g} and {high:g}")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed is {self.seed}; it must be between 0 and {MAX_SEED}")
        if any(math.isnan(bias) for bias in self.logit_bias.values()):
            raise UsageError("a logit bias is NaN")


class Sampler:
    """A chain for one engine. `seed` is the one in use. Close before the engine; `with` does it."""

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self._engine, self._lib = engine, engine.lib
        self.seed = secrets.randbelow(MAX_SEED + 1) if sampling.seed is None else sampling.seed
        self._n_history = sampling.penalty_last_n
        params = self._lib.llama_sampler_chain_default_params()
        self.chain: Any = self._lib.llama_sampler_chain_init(params)
        try:
            self._fill(engine, sampling)
        except BaseException:
            self.close()
            raise
        self._is_greedy = sampling.temperature == 0 and self._lib.llama_sampler_chain_n(self.chain) == 1

    def sample(self, row: int = -1) -> int:
        """A token drawn from row `row` of the last decode: its place in the batch, or -1 for the last one.

        Raises EngineError where the logits are NaN.
        """
        if self._is_greedy:
            return self._engine.likeliest(row)
        self._engine.require_numbers(row)
        return int(self._lib.llama_sampler_sample(self.chain, self._engine.handle, row))

    def accept(self, tokens: I32Array) -> None:
        """Let penalties see the end of `tokens` (n,), the prompt."""
        for token in tokens[-self._n_history :].tolist() if self._n_history else ():
            self._lib.llama_sampler_accept(self.chain, token)

    def close(self) -> None:
        """Free the chain. Safe to call twice."""
        chain, self.chain = self.chain, None
        if chain is not None:
            self._lib.llama_sampler_free(chain)

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self, engine: Engine, s: Sampling) -> None:
        lib = self._lib
        n_vocab = engine.vocab.n_vocab
        if s.logit_bias:
            self._add(
                lib.llama_sampler_init_logit_bias(n_vocab, len(s.logit_bias), _biases(lib, s.logit_bias, n_vocab))
            )
        if (s.repeat_penalty, s.frequency_penalty, s.presence_penalty) != (1.0, 0.0, 0.0) and s.penalty_last_n:
            penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
            self._add(lib.llama_sampler_init_penalties(n_vocab, s.penalty_last_n, *penalties))
        if s.dry_multiplier:
            self._add(self._dry(engine, s))
        if s.temperature == 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if s.top_k:
            self._add(lib.llama_sampler_init_top_k(s.top_k))
        if s.typical_p < 1:
            self._add(lib.llama_sampler_init_typical(s.typical_p, 0))
        if s.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(s.top_p, 0))
        if s.min_p:
            self._add(lib.llama_sampler_init_min_p(s.min_p, 0))
        self._add(lib.llama_sampler_init_temp(s.temperature))
        self._add(lib.llama_sampler_init_dist(self.seed))

    def _dry(self, engine: Engine, s: Sampling) -> Any:
        breakers = (ctypes.c_char_p * len(DRY_BREAKERS))(*(text.encode() for text in DRY_BREAKERS))
        return self._lib.llama_sampler_init_dry(
            engine.vocab.handle,
            s.dry_multiplier,
            s.dry_base,
            s.dry_allowed_length,
            s.penalty_last_n,
            breakers,
            len(DRY_BREAKERS),
        )

    def _add(self, sampler: Any) -> None:
        if not sampler:
            raise library.engine_error("llama.cpp refused a sampler.")
        self._lib.llama_sampler_chain_add(self.chain, sampler)


def _biases(lib: Any, logit_bias: Mapping[int, float], n_vocab: int) -> Any:
    rows = (lib.llama_logit_bias * len(logit_bias))()
    for row, (token, bias) in zip(rows, logit_bias.items(), strict=True):
        if not 0 <= token < n_vocab:
            raise UsageError(f"logit bias names token {token}; the vocabulary has {n_vocab}")
        row.token, row.bias = token, np.float32(bias)
    return rows
