"""What `ggufkit run` does once options are parsed: one answer, or a conversation on a terminal.

The answer goes to stdout as it comes, stats and everything else to stderr. Ctrl-C ends an answer, not the program.
"""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ggufkit.cli import console
from ggufkit.errors import GgufkitError
from ggufkit.progress import Progress
from ggufkit.reports.units import human_bytes
from ggufkit.runtime.chat import Message, tokenize_chat
from ggufkit.runtime.engine import Device, Engine
from ggufkit.runtime.generate import FinishReason, Generation, GenerationStats, generate
from ggufkit.runtime.sampling import Sampling

HELP = """\
/system TEXT   start again with a system message
/clear         start again
/regen         answer the last question once more
/stats         show or hide the line of numbers
/bye           end (Ctrl-D does too)
Everything else is said to the model. \"\"\" begins and ends a text of several lines."""


@dataclasses.dataclass(slots=True)
class Options:
    """How to answer."""

    prompt: str | None = None
    chat: bool | None = None
    system: str | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


def parse(settings: dict[str, Any]) -> tuple[Options, Sampling]:
    """The command's options, checked before a model is loaded."""
    names = {field.name for field in dataclasses.fields(Options)}
    return (
        Options(**{key: value for key, value in settings.items() if key in names}),
        Sampling(**{key: value for key, value in settings.items() if key not in names}),
    )


@contextmanager
def open_engine(file: Path, n_ctx: int | None, threads: int | None, device: str) -> Iterator[Engine]:
    """The model, loaded with a bar; its notices are said."""
    with console.progress(f"loading {file.name}") as update:
        engine = Engine.open(
            file, n_ctx=n_ctx, threads=threads, device=Device(device),
            on_load=lambda fraction: update(Progress(100 * fraction, 100, "%")),
        )  # fmt: skip
    with engine:
        for notice in engine.notices:
            console.say(notice)
        yield engine


class Session:
    """Answers with one engine. Keeps the conversation; the engine keeps nothing between answers."""

    def __init__(self, engine: Engine, options: Options, sampling: Sampling, *, as_json: bool = False) -> None:
        self.options, self.sampling = options, sampling
        self._engine, self._as_json = engine, as_json
        self._messages: list[Message] = []
        self._show_stats = True
        self._start(self.options.system)

    def answer_once(self, prompt: str) -> None:
        """Answer `prompt` on stdout, stats on stderr; as one JSON document where that was asked for."""
        chat = bool(self.options.chat) or (self.options.chat is None and self.options.system is not None)
        text, generation = self._generate(prompt, chat=chat, echo=not self._as_json, repeat=not chat)
        stats = generation.stats
        assert stats is not None
        if self._as_json:
            console.print_json(_as_dict(prompt, text, stats))
        else:
            click.echo()
            console.say(stats_line(stats))
        if stats.finish_reason is FinishReason.CANCELLED:
            raise KeyboardInterrupt

    def converse(self) -> None:
        """Read, answer, repeat until /bye or the end of input."""
        chat = self._engine.chat_template is not None if self.options.chat is None else self.options.chat
        if not chat:
            console.say("This model has no chat template: what you write is continued, not answered.")
        while (said := _read()) is not None:
            try:
                if not self._obey(said, chat):
                    return
            except GgufkitError as error:
                console.say(f"Error: {error}")

    def _obey(self, said: str, chat: bool) -> bool:
        """One line of the user's; False ends the conversation."""
        word, _, rest = said.partition(" ")
        match word:
            case "":
                pass
            case "/bye" | "/exit" | "/quit":
                return False
            case "/help" | "/?":
                console.say(HELP, lines=True)
            case "/clear":
                self._start(self.options.system)
            case "/system":
                self._start(rest)
            case "/stats":
                self._show_stats = not self._show_stats
            case "/regen" if len(self._messages) >= 2 and self._messages[-1].role == "assistant":
                question = self._messages[-2].content
                del self._messages[-2:]
                self._reply(question, chat)
            case _ if word.startswith("/"):
                console.say(f"{word} is not known here. /help shows what is.")
            case _:
                self._reply(said, chat)
        return True

    def _reply(self, said: str, chat: bool) -> None:
        _, generation = self._generate(said, chat=chat, echo=True)
        click.echo()
        if self._show_stats and generation.stats is not None:
            console.say(stats_line(generation.stats))

    def _start(self, system: str | None) -> None:
        self.options.system = system
        self._messages = [Message("system", system)] if system else []

    def _generate(self, prompt: str, *, chat: bool, echo: bool, repeat: bool = False) -> tuple[str, Generation]:
        """The answer; with `echo` it is shown as it comes, after the prompt where `repeat` is set."""
        messages = [*self._messages, Message("user", prompt)]
        tokens = tokenize_chat(self._engine, messages) if chat else self._engine.tokenize(prompt)
        generation = generate(
            self._engine, tokens, sampling=self.sampling, max_tokens=self.options.max_tokens, stop=self.options.stop
        )
        pieces: list[str] = []
        if echo and repeat:
            click.echo(prompt, nl=False)
        try:
            for piece in generation:
                pieces.append(piece)
                if echo:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            pass  # the stats say that it was cancelled
        if chat:
            self._messages = [*messages, Message("assistant", "".join(pieces))]
        return "".join(pieces), generation


def stats_line(stats: GenerationStats) -> str:
    """One line of what an answer took."""
    why = {
        FinishReason.LENGTH: "the context is full" if stats.context_full else "the wanted length",
        FinishReason.STOP: "the model ended" if stats.stop_text is None else f"stop {stats.stop_text!r}",
        FinishReason.CANCELLED: "interrupted",
    }[stats.finish_reason]
    return (
        f"first token {1000 * stats.seconds_to_first:.0f} ms · prompt {stats.n_prompt} tokens "
        f"@ {stats.prompt_per_second:.1f}/s · answer {stats.n_generated} tokens @ {stats.generated_per_second:.1f}/s · "
        f"peak {human_bytes(stats.peak_rss)} · seed {stats.seed} · {why}"
    )


def _as_dict(prompt: str, text: str, stats: GenerationStats) -> dict[str, Any]:
    return {
        "schema": "ggufkit/run@1",
        "prompt": prompt,
        "text": text,
        **dataclasses.asdict(stats),
        "prompt_per_second": stats.prompt_per_second,
        "generated_per_second": stats.generated_per_second,
    }


def _read() -> str | None:
    """What the user says, None at the end of input. Three quotes begin and end a text of several lines."""
    import readline  # noqa: F401  arrow keys and history in input()

    try:
        line = input("> ")
        if not line.startswith('"""'):
            return line.strip()
        lines = [line[3:]]
        while not lines[-1].endswith('"""'):
            lines.append(input("… "))
    except EOFError:
        console.say("")
        return None
    except KeyboardInterrupt:
        console.say("")
        return ""
    return "\n".join(lines)[:-3].strip()
