"""What `ggufkit run` does once options are parsed: one answer, or a conversation on a terminal.

The answer goes to stdout as it comes, stats and everything else to stderr. Ctrl-C ends an answer, not the program.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ggufkit.cli import console
from ggufkit.cli.answer import AnswerWriter, typing_is_not_shown
from ggufkit.cli.run_numbers import PromptProgress, as_dict, stats_lines
from ggufkit.cli.run_options import AnswerOptions, EngineOptions
from ggufkit.errors import GgufkitError, InputError
from ggufkit.progress import Progress
from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.chat import Message, tokenize_chat
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.generate import FinishReason, Generation, GenerationStats, generate
from ggufkit.runtime.loading import Device
from ggufkit.runtime.sampling import Sampling
from ggufkit.runtime.sequence import Sequence
from ggufkit.sigint import postponed_sigint

HELP = """\
/system TEXT   start again with a system message
/clear         start again
/regen         answer the last question once more
/stats         show or hide the line of numbers
/bye           end (Ctrl-D does too)
Everything else is said to the model. A paste of several lines is one message; Alt-Enter begins a line, and so does
Enter after \"\"\", until \"\"\" again."""
RAW_NTOKENS = 512  # a base model seldom ends by itself
_COMMAND = re.compile(r"/[a-z?]+( .*)?")


@contextmanager
def open_engine(file: Path, options: EngineOptions) -> Iterator[Engine]:
    """The model, loaded with a bar; its notices are said."""
    with console.progress(f"loading {file.name}") as update:
        engine = Engine.open(
            file, n_ctx=options.n_ctx, threads=options.threads, device=Device(options.device),
            adapters=options.lora,
            on_load=lambda fraction: update(Progress(100 * fraction, 100, "%")),
        )  # fmt: skip
    with engine:
        for notice in engine.notices:
            console.say(notice)
        yield engine


class Session:
    """Answers with one engine. Keeps the conversation, and what the engine has computed of it."""

    def __init__(self, engine: Engine, options: AnswerOptions, sampling: Sampling, *, as_json: bool = False) -> None:
        self._options, self._sampling = options, sampling
        self._engine, self._as_json = engine, as_json
        self._chat = engine.chat_template is not None if options.chat is None else options.chat
        self._sequence = Sequence(engine)
        self._messages: list[Message] = []
        self._show_stats = True
        self._start(options.system)
        if options.system and not self._chat:
            raise InputError("a system message needs a chat. Leave out --raw; a model without a template has no chats.")

    def answer_once(self, prompt: str) -> None:
        """Answer `prompt` on stdout, stats on stderr; as one JSON document where that was asked for."""
        if self._chat and not prompt.strip():
            raise InputError("there is nothing to answer: the prompt is empty. Say it with -p or pipe it in.")
        messages = [*self._messages, Message("user", prompt)]
        tokens = tokenize_chat(self._engine, messages) if self._chat else self._raw_tokens(prompt)
        writer = None if self._as_json else AnswerWriter()
        text, generation = self._generate(tokens, writer, continued="" if self._chat else prompt)
        stats = generation.stats
        assert stats is not None
        if self._as_json:
            console.print_json(as_dict(prompt, text, self._chat, stats))
        else:
            self._say_stats(stats)
        if stats.finish_reason is FinishReason.CANCELLED:
            raise KeyboardInterrupt

    def converse(self) -> None:
        """Read, answer, repeat until /bye or the end of input."""
        from ggufkit.cli.line_editor import LineEditor

        if not self._chat:
            console.say("What you write is continued, not answered: the model has no chat template, or --raw.")
        self._editor = LineEditor()
        while (said := self._editor.read()) is not None:
            try:
                if not self._obey(said):
                    return
            except GgufkitError as error:
                console.say(f"Error: {error}")

    def _obey(self, said: str) -> bool:
        """One message of the user's; False ends the conversation."""
        word, rest = said, ""
        if _COMMAND.fullmatch(said):
            word, _, rest = said.partition(" ")
        match word:
            case "":
                pass
            case "/bye" | "/exit" | "/quit":
                return False
            case "/help" | "/?":
                console.say(HELP, lines=True)
            case "/clear":
                self._start(self._system)
                console.say("The conversation starts again.")
            case "/system":
                self._start(rest.strip() or None)
                what = "with that system message" if self._system else "without a system message"
                console.say(f"The conversation starts again, {what}.")
            case "/stats":
                self._show_stats = not self._show_stats
                console.say("The line of numbers is shown." if self._show_stats else "The line of numbers is hidden.")
            case "/regen" if len(self._messages) >= 2 and self._messages[-1].role == "assistant":
                question = self._messages[-2].content
                del self._messages[-2:]
                self._reply(question)
            case "/regen":
                console.say("There is no answer yet.")
            case _ if _COMMAND.fullmatch(said):
                console.say(f"{word} is not known here. /help shows what is.")
            case _:
                self._reply(said)
        return True

    def _reply(self, said: str) -> None:
        """Answer, and keep question and answer where there was one."""
        if self._chat:
            messages = self._fitting([*self._messages, Message("user", said)])
            if messages is None:
                return
            tokens = tokenize_chat(self._engine, messages)
        else:
            messages, tokens = [], self._raw_tokens(said)
        text, generation = self._generate(tokens, AnswerWriter())
        stats = generation.stats
        assert stats is not None
        if self._chat and stats.n_generated:
            self._messages = [*messages, Message("assistant", text)]
        if self._show_stats or not stats.n_generated:
            self._say_stats(stats)

    def _fitting(self, messages: list[Message]) -> list[Message] | None:
        """`messages`, without their oldest turns where the context has no room for an answer; None where that is not
        wanted. The system message and the last question stay."""
        n_ctx = self._engine.settings.n_ctx
        n_token = len(tokenize_chat(self._engine, messages))
        if n_token + min(256, n_ctx // 4) <= n_ctx:
            return messages
        first = int(messages[0].role == "system")
        kept, n_left = messages, n_token
        while n_left > n_ctx - n_ctx // 4 and len(kept) > first + 1:  # a quarter, so that it is not asked each time
            kept = [*kept[:first], *kept[first + 2 :]]
            n_left = len(tokenize_chat(self._engine, kept))
        if kept is messages:
            return messages  # nothing older to forget: the answer has what room there is, or an error says so
        n_turns = (len(messages) - len(kept)) // 2
        oldest = "the oldest question and its answer" if n_turns == 1 else f"the {n_turns} oldest questions and answers"
        console.say(f"The conversation takes {n_token:,} of the context's {n_ctx:,} tokens.")
        if self._editor.confirm(f"Forget {oldest}?"):
            return kept
        console.say("The question was not asked. /clear starts again; a larger --ctx holds more.")
        return None

    def _start(self, system: str | None) -> None:
        self._system = system
        self._messages = [Message("system", system)] if system else []

    def _raw_tokens(self, prompt: str) -> I32Array:
        """The prompt as it is, BOS in front once where the model wants it."""
        vocab = self._engine.vocab
        ids = vocab.tokenize(prompt, parse_special=self._options.special)
        return ids[1:] if len(ids) > 1 and ids[0] == ids[1] == vocab.bos else ids

    def _generate(self, tokens: I32Array, writer: AnswerWriter | None, continued: str = "") -> tuple[str, Generation]:
        """The answer, written as it comes; on a terminal behind the text that it continues."""
        most, unwanted = self._options.max_tokens, not self._chat and self._options.max_tokens is None
        with PromptProgress() as progress, typing_is_not_shown():
            generation = generate(
                self._engine, tokens, sampling=self._sampling, max_tokens=RAW_NTOKENS if unwanted else most,
                cut_loops=most is None, stop=self._options.stop, sequence=self._sequence, on_prompt=progress,
            )  # fmt: skip
            if writer and sys.stdout.isatty():
                writer.write(continued)
            text = _text(generation, writer, on_first=progress.close)
        if writer:
            writer.end()
        return text, generation

    def _say_stats(self, stats: GenerationStats) -> None:
        for line in stats_lines(stats, chat=self._chat, width=console.width()):
            console.say(line)


def _text(generation: Generation, writer: AnswerWriter | None, on_first: Callable[[], None]) -> str:
    """All of the text, written as it comes. Ctrl-C ends it, and the stats say so.

    From the first piece on it ends behind a piece: what is shown and what is kept are the same. Its handler is set
    once and not around every piece, between two decodes.
    """
    pieces: list[str] = []
    interrupted: list[bool] = []
    with suppress(KeyboardInterrupt), ExitStack() as answering:
        for piece in generation:
            if not pieces:
                on_first()
                answering.enter_context(postponed_sigint(lambda: interrupted.append(True)))
            pieces.append(piece)
            if writer:
                writer.write(piece)
            if interrupted:
                break
    return "".join(pieces)
