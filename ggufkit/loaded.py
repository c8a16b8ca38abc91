"""A GGUF that is open to generate and chat with: what `ggufkit.load` returns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ggufkit.runtime.adapters import Adapters
from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.chat import Message, tokenize_chat
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.generate import Generation, GenerationStats, generate
from ggufkit.runtime.sampling import Sampling
from ggufkit.runtime.sequence import Sequence as EngineSequence

Messages = str | Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote, and what it took; as text it is the text."""

    text: str
    stats: GenerationStats

    def __str__(self) -> str:
        return self.text


class LoadedModel:
    """One model with one context. What earlier calls computed of the same beginning is not computed again.

    sampling options of all methods are those of `ggufkit.runtime.sampling.Sampling`: temperature, top_k, top_p, min_p,
    seed, repeat_penalty and more. One thread at a time.
    """

    def __init__(
        self, file: Path, *, n_ctx: int | None = None, threads: int | None = None, lora: Adapters = ()
    ) -> None:
        self._engine = Engine.open(file, n_ctx=n_ctx, threads=threads, adapters=lora)
        self._sequence = EngineSequence(self._engine)

    @property
    def n_ctx(self) -> int:
        """Tokens of prompt and answer together."""
        return self._engine.settings.n_ctx

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines a person should see: fallbacks that were taken, and why."""
        return self._engine.notices

    @property
    def chat_template(self) -> str | None:
        """The Jinja source that the file carries; without one there is no `chat`."""
        return self._engine.chat_template

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, with BOS where the model wants it."""
        return [int(token) for token in self._engine.tokenize(text)]

    def generate(
        self, prompt: str, *, max_tokens: int | None = None, stop: Sequence[str] = (), **sampling: Any
    ) -> Answer:
        """Continue a text. Raises InputError where the prompt fills the context, UsageError for unknown options."""
        return _answer(self._start(self._engine.tokenize(prompt), max_tokens, stop, sampling))

    def stream(
        self, prompt: str, *, max_tokens: int | None = None, stop: Sequence[str] = (), **sampling: Any
    ) -> Iterator[str]:
        """The same, piece by piece as it is computed."""
        return iter(self._start(self._engine.tokenize(prompt), max_tokens, stop, sampling))

    def chat(
        self,
        messages: Messages,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> Answer:
        """Answer under the model's own chat template.

        messages  a question, or the conversation so far: [{"role": "user", "content": "Hello"}, …]
        """
        return _answer(self._start(self._chat_tokens(messages, system), max_tokens, stop, sampling))

    def stream_chat(
        self,
        messages: Messages,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> Iterator[str]:
        """The same, piece by piece as it is computed."""
        return iter(self._start(self._chat_tokens(messages, system), max_tokens, stop, sampling))

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _chat_tokens(self, messages: Messages, system: str | None) -> I32Array:
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        said = [Message(turn["role"], turn["content"]) for turn in turns]
        return tokenize_chat(self._engine, [Message("system", system), *said] if system else said)

    def _start(
        self, prompt: I32Array, max_tokens: int | None, stop: Sequence[str], sampling: dict[str, Any]
    ) -> Generation:
        return generate(
            self._engine, prompt, sampling=_sampling(sampling), max_tokens=max_tokens, stop=stop,
            sequence=self._sequence,
        )  # fmt: skip


def _sampling(options: dict[str, Any]) -> Sampling:
    import dataclasses

    from ggufkit.errors import UsageError
    from ggufkit.formats.nearest import unknown

    known = [field.name for field in dataclasses.fields(Sampling)]
    for name in options:
        if name not in known:
            raise UsageError(unknown("sampling option", name, known))
    return Sampling(**options)


def _answer(generation: Generation) -> Answer:
    text = "".join(generation)
    assert generation.stats is not None, "an iteration that has ended has its stats"
    return Answer(text, generation.stats)
