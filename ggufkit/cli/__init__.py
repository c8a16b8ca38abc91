"""The command `ggufkit`: parse, call one workflow, print one report.

Knows the table of commands and how an error becomes one line of text and an exit code. Commands are imported when
they are called, so that `--help` is fast.

Exit codes: 0 done, 1 error, 2 usage, 3 gate not met, 4 gate inconclusive, 130 interrupted.
"""

# ruff: noqa: E402

import os
import sys

# `python -m` and empty parts of PYTHONPATH put the working folder on the path, which may be a stranger's: before
# anything else is imported it goes, unless this package itself lies there.
_OWN = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120  pathlib is not loaded yet
sys.path[:] = [
    entry
    for entry in sys.path
    if entry == _OWN or (entry and not (os.path.exists(entry) and os.path.samefile(entry, ".")))  # noqa: PTH110, PTH121
]

import copy
import errno
import importlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

import click

from ggufkit import __version__
from ggufkit.cli.boundary import ENGINE_COMMANDS, guarded
from ggufkit.cli.places import checked
from ggufkit.errors import GgufkitError
from ggufkit.sigint import hear

# command -> what it does; the module is ggufkit.cli.<command>, its attribute `command`
COMMANDS = {
    "plan": "Show what every tensor would become: type, bytes, reason; no weight is read.",
    "quantize": "Make a quantized GGUF from a Hugging Face folder or a GGUF.",
    "convert-lora": "Write a PEFT adapter as a GGUF, for run --lora.",
    "calibrate": "Measure how strongly a text uses each input of each expert; for quantize --imatrix.",
    "perplexity": "Measure how well a GGUF predicts a text.",
    "compare": "Measure how far a GGUF is from its original: perplexity, KL divergence, top token.",
    "diff": "Show what differs between two models without running them.",
    "baseline": "Keep a model's predictions in a small file for compare and gate.",
    "gate": "Judge whether a quantized GGUF may be published; for CI.",
    "report": "Make an HTML page of results of gate: verdict, curves, heat maps, worst passages.",
    "card": "Make a model card of results of gate.",
    "run": "Generate text or chat with a GGUF.",
    "inspect": "Show what is in a GGUF: metadata, tensors, types, sizes.",
    "doctor": "Show what was found on this machine, what was chosen, and what it costs.",
}

# what other tools call it
SYNONYMS = {
    "convert": "quantize", "quant": "quantize", "imatrix": "calibrate", "ppl": "perplexity", "kld": "compare",
    "chat": "run", "generate": "run", "cli": "run", "show": "inspect", "dump": "inspect", "info": "inspect",
}  # fmt: skip


class CliError(click.ClickException):
    """An error of the library as click shows it: one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class LazyGroup(click.Group):
    """Commands by table; errors of the library turned into text in one place."""

    is_program = False  # called from Python, a command stays in the caller's process

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        self.is_program = args is None
        return super().main(args, *rest, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = copy.copy(importlib.import_module(f"ggufkit.cli.{cmd_name.replace('-', '_')}").command)
        if command.callback is not None:
            command.callback = checked(command.callback)
            if self.is_program and cmd_name in ENGINE_COMMANDS:
                command.callback = guarded(command.callback)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            from ggufkit.formats.nearest import meant

            ctx.fail(f"No such command {args[0]!r}. {meant(SYNONYMS.get(args[0], args[0]), COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        _steady_streams()
        hear()
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            raise CliError(_with_notes(error) or "interrupted", 130) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; nothing more to say
            raise SystemExit(0) from None
        except Exception as error:
            if os.environ.get("GGUFKIT_TRACEBACK"):
                raise
            raise _as_text(error) from error


def _as_text(error: Exception) -> CliError:
    from quant.errors import QuantError

    match error:
        case GgufkitError() | QuantError():
            return CliError(_with_notes(error), getattr(error, "exit_code", 1))
        case OSError():
            return CliError(_os_message(error), 1)
        case MemoryError():
            return CliError("out of memory. Lower --max-memory, --threads or --ctx.", 1)
    from ggufkit.formats.printable import printable

    return CliError(
        f"this is a mistake of ggufkit: {type(error).__name__}: {printable(str(error))}\n"
        "Please report it with what GGUFKIT_TRACEBACK=1 shows.",
        1,
    )


def _with_notes(error: BaseException) -> str:
    """The message on one line, whatever it quotes, and each note on one of its own."""
    from ggufkit.formats.printable import for_log, printable

    return for_log("\n".join(printable(line) for line in [str(error), *getattr(error, "__notes__", [])])).strip()


def _os_message(error: OSError) -> str:
    from ggufkit.formats.printable import printable

    where = f"{printable(str(error.filename))}: " if error.filename else ""
    advice = " Make room, then run again." if error.errno == errno.ENOSPC else ""
    return f"{where}{error.strerror or error}.{advice}"


def _steady_streams() -> None:
    """Output that any terminal can show: what its encoding lacks becomes `?`; a closed stream is an empty one."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115, PTH123  for the life of the process
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    warnings.showwarning = _say_warning


def _say_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Our own warnings are for the user, one line each; the rest are for those who ask Python for them."""
    if category.__module__.split(".")[0] in ("quant", "ggufkit"):
        from ggufkit.formats.printable import printable

        click.echo(f"Note: {printable(str(message))}", err=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ggufkit")
def main() -> None:
    """Turn a Hugging Face checkpoint into a quantized GGUF, prove how good it is, and run it."""
