"""The generation loop: a prompt's tokens in, pieces of text out as they become certain, statistics at the end.

Python's part is about five microseconds a token at any length: one decode, one sample, the bytes of the piece,
and, where stop strings are given, a search over a tail as long as they are. Does not know chats or terminals.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter

from ggufkit.errors import InputError, UsageError
from ggufkit.runtime import machine
from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.endings import LOOP_EVERY, StopMatcher, find_loop
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.sampling import Sampler, Sampling
from ggufkit.runtime.sequence import OnPrompt, Sequence
from ggufkit.runtime.vocabulary import Utf8Stream


class ContextFullError(InputError):
    """The prompt leaves no room in the context."""


class FinishReason(StrEnum):
    """Why a generation ended, in the words of OpenAI's interface: the model's end token or a stop string, the wanted
    or possible length (a loop that is cut counts), or the caller."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What a generation did.

    stop_text            the stop string that ended it, None where the model did
    context_full         finish_reason is `length` because the context had no room left
    loop                 the text ends in the same so many tokens over and over; 0 where it does not
    seed                 that reproduces it
    n_prompt, n_kept, n_computed  tokens of the prompt, those of an earlier answer that were kept, those computed now;
                         less than the rest where the prompt was interrupted
    n_generated          tokens drawn, the end token included
    seconds_to_first     from the start to the first token: the prompt's computation
    prompt_per_second    tokens of the prompt computed a second
    generated_per_second tokens after the first a second
    """

    finish_reason: FinishReason
    stop_text: str | None
    context_full: bool
    loop: int
    seed: int
    n_prompt: int
    n_kept: int
    n_computed: int
    n_generated: int
    seconds_to_first: float
    seconds: float
    peak_rss: int

    @property
    def prompt_per_second(self) -> float:
        return self.n_computed / self.seconds_to_first if self.seconds_to_first else 0.0

    @property
    def generated_per_second(self) -> float:
        seconds = self.seconds - self.seconds_to_first
        return (self.n_generated - 1) / seconds if self.n_generated > 1 and seconds > 0 else 0.0


class Generation:
    """One generation, to be iterated once for its text. `stats` is there when the iteration has ended."""

    def __init__(
        self,
        sequence: Sequence,
        prompt: I32Array,
        sampling: Sampling,
        *,
        max_tokens: int | None,
        cut_loops: bool,
        stop: Collection[str],
        on_prompt: OnPrompt | None,
    ) -> None:
        self._engine, self._sequence, self._prompt, self._sampling = sequence.engine, sequence, prompt, sampling
        room = self._engine.settings.n_ctx - len(prompt)
        self._limit = room if max_tokens is None else min(max_tokens, room)
        self._fills_context = max_tokens is None or max_tokens > room
        self._cuts_loops = cut_loops
        self._stop = StopMatcher(stop) if stop else None
        self._on_prompt = on_prompt
        self._started = self._first = perf_counter()
        self._n_kept = self._n_generated = self._loop = 0
        self._reason = FinishReason.CANCELLED
        self.seed = -1
        self.stats: GenerationStats | None = None

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, never empty. Closing the iterator early ends the generation as `cancelled`."""
        self._started = self._first = perf_counter()
        stream, stop = Utf8Stream(), self._stop
        try:
            for piece in self._pieces():
                text = stream.push(piece)
                if stop is not None:
                    text = stop.push(text)
                    if stop.found is not None:
                        self._reason = FinishReason.STOP
                if text:
                    yield text
                if self._reason is FinishReason.STOP:
                    return
            tail = stream.finish()
            if stop is not None:
                tail = stop.push(tail)
                tail += stop.finish() if stop.found is None else ""
            if tail:
                yield tail
        finally:
            self.stats = self._make_stats()

    def _pieces(self) -> Iterator[bytes]:
        """Bytes of each token drawn. The loop that everything is measured by."""
        engine, vocab, sequence = self._engine, self._engine.vocab, self._sequence
        with Sampler(engine, self._sampling) as sampler:
            self.seed = sampler.seed
            sampler.accept(self._prompt)
            self._n_kept = sequence.prefill(self._prompt, self._on_prompt)
            engine.require_numbers(whole=True)
            sample, append, share_cores = sampler.sample, sequence.append, engine.share_cores
            piece, eog, limit, n_prompt = vocab.piece, vocab.eog, self._limit, len(self._prompt)
            for n in range(1, limit + 1):
                token = sample()
                self._n_generated = n
                if n == 1:
                    self._first = perf_counter()
                if token in eog:
                    self._reason = FinishReason.STOP
                    return
                if n % LOOP_EVERY == 0:
                    self._loop = find_loop(sequence.held[n_prompt:])
                    if self._loop and self._cuts_loops:
                        self._fills_context = False
                        break
                yield piece(token)
                if n < limit:
                    share_cores()
                    append(token)
        self._reason = FinishReason.LENGTH

    def _make_stats(self) -> GenerationStats:
        found = None if self._stop is None else self._stop.found
        n_held = min(len(self._sequence.held), len(self._prompt))
        return GenerationStats(
            finish_reason=self._reason,
            stop_text=found,
            context_full=self._reason is FinishReason.LENGTH and self._fills_context,
            loop=self._loop,
            seed=self.seed,
            n_prompt=len(self._prompt),
            n_kept=self._n_kept,
            n_computed=n_held - self._n_kept,
            n_generated=self._n_generated,
            seconds_to_first=max(0.0, self._first - self._started),
            seconds=perf_counter() - self._started,
            peak_rss=machine.peak_rss(),
        )


def generate(
    engine: Engine,
    prompt: I32Array,
    *,
    sampling: Sampling | None = None,
    max_tokens: int | None = None,
    cut_loops: bool | None = None,
    stop: Collection[str] = (),
    sequence: Sequence | None = None,
    on_prompt: OnPrompt | None = None,
) -> Generation:
    """Continue `prompt` (n,) token ids. Iterate the result for its text, then read its `stats`.

    max_tokens  None goes on until the model ends, repeats itself, or the context is full
    cut_loops   end, as `length`, where the text repeats itself; None does so where max_tokens is None
    stop        strings that end the text; they are not part of it
    sequence    of this engine: what it holds of the prompt's beginning is not computed again. None forgets everything
    on_prompt   called as the prompt is computed

    Raises InputError for a prompt that is empty or fills the context; on iteration, EngineError where the model
    computes no numbers.
    """
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}; it must be at least 1")
    if any(not text for text in stop):
        raise UsageError("a stop string is empty")
    if not len(prompt):
        raise InputError("the prompt has no tokens, and this model adds no BOS. Give it a text to continue")
    if len(prompt) >= engine.settings.n_ctx:
        raise ContextFullError(
            f"the prompt has {len(prompt)} tokens, the context {engine.settings.n_ctx}. "
            "Shorten the prompt, or open the model with a larger --ctx"
        )
    if sequence is None:
        engine.clear()
        sequence = Sequence(engine)
    return Generation(
        sequence, prompt, sampling or Sampling(), max_tokens=max_tokens,
        cut_loops=max_tokens is None if cut_loops is None else cut_loops, stop=stop, on_prompt=on_prompt,
    )  # fmt: skip
