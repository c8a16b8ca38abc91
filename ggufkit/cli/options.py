"""Options that commands share: one decorator each, so that a flag means the same everywhere."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click

from ggufkit.reports.units import parse_bytes

if TYPE_CHECKING:
    from ggufkit.runtime.loading import Device

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Bytes(click.ParamType[int]):
    """A size such as 2GiB, 800M or 4096."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(value)
        except ValueError:
            self.fail(f"{value!r} is not a size. Write 2GiB, 800M or a number of bytes.", param, ctx)


def option(*names: str, **settings: Any) -> Any:
    """A field of a dataclass that is an option of the command line; see `grouped`."""
    return dataclasses.field(metadata={"option": click.option(*names, **settings)})


def shared(decorator: Decorator) -> Any:
    """The same for an option that other commands have, too."""
    return dataclasses.field(metadata={"option": decorator})


def grouped(name: str, kind: type) -> Decorator:
    """Options that belong together reach the command as one value: argument `name`, of the dataclass `kind`."""
    fields = dataclasses.fields(kind)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(**given: Any) -> Any:
            value = kind(**{field.name: given.pop(field.name) for field in fields})
            return command(**given, **{name: value})

        made: Callable[..., Any] = call
        for field in reversed(fields):
            made = field.metadata["option"](made)
        return made

    return decorate


PATH = click.Path(path_type=Path, readable=False)  # opening it gives a better message than click, and exit code 1
OUTPUT = click.Path(path_type=Path, writable=False)  # `places` looks at it before any work

type_name: Decorator = click.option(
    "--type", "type_name", default=None, help="Mixture or number format.  [default: Q4_K_M]"
)
recipe: Decorator = click.option("--recipe", type=PATH, default=None, help="TOML recipe instead of --type.")
imatrix: Decorator = click.option(
    "--imatrix", type=PATH, default=None, help="Importance file of llama-imatrix, either format."
)
max_memory: Decorator = click.option(
    "--max-memory", type=Bytes(), default=None,
    help="Cap on resident memory.  [default: 2GiB; half of the machine's where experts are fitted]",
)  # fmt: skip
allow_requantize: Decorator = click.option(
    "--allow-requantize", is_flag=True, help="Accept a GGUF that is already quantized."
)
mtp: Decorator = click.option(
    "--mtp", type=click.Choice(["keep", "drop"]), default="keep", show_default=True,
    callback=lambda _context, _parameter, value: value == "keep",
    help="The block that guesses further tokens, where a checkpoint has one.",
)  # fmt: skip

target_size: Decorator = click.option(
    "--target-size", type=Bytes(), default=None, help="Choose types for a file of this size."
)
target_bpw: Decorator = click.option(
    "--target-bpw", type=click.FloatRange(min=1.0, max=16.0), default=None,
    help="Choose types for so many bits a weight.",
)  # fmt: skip


class Adapter(click.ParamType[tuple[Path, float]]):
    """A PEFT adapter's folder, and how strongly it is added: PATH or PATH=0.5."""

    name = "adapter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Path, float]:
        path, equals, factor = str(value).rpartition("=")
        if not equals or Path(value).exists():
            return Path(value), 1.0
        try:
            return Path(path), float(factor)
        except ValueError:
            self.fail(f"{factor!r} is not a number. Write PATH or PATH=0.5.", param, ctx)


lora: Decorator = click.option(
    "--lora", type=Adapter(), multiple=True, metavar="PATH[=FACTOR]",
    help="PEFT adapter to add to a checkpoint's weights, repeatable.",
)  # fmt: skip

json_flag: Decorator = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
threads: Decorator = click.option(
    "-t", "--threads", type=click.IntRange(1, 512), default=None, help="Threads. Default: the processors at hand."
)
cluster: Decorator = click.option(
    "--cluster", metavar="ADDRESS", default=None,
    help="Encode on the workers of a Dask scheduler, tcp://HOST:8786. The bytes are the same.",
)  # fmt: skip
workers: Decorator = click.option(
    "--workers", type=click.IntRange(1, 512), default=None,
    help="Encode in so many processes of this machine, --threads (or one) each.",
)  # fmt: skip
text_file: Decorator = click.option(
    "--text", type=PATH, default=None, help="UTF-8 text to measure on. Default: the shipped prose."
)
ctx_size: Decorator = click.option("--ctx", "n_ctx", type=click.IntRange(min=8), default=512, show_default=True,
                                   help="Tokens of a chunk; the second half is scored.")  # fmt: skip
chunks: Decorator = click.option("--chunks", type=click.IntRange(min=1), default=None, help="At most so many chunks.")
device: Decorator = click.option(
    "--device", type=click.Choice(["auto", "cpu", "metal"]), default="auto", show_default=True, help="Where to compute."
)


class ReadingSettings(TypedDict):
    """The same as the workflows take it."""

    text: Path | None
    n_ctx: int
    chunks: int | None
    threads: int | None
    device: "Device"


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a model is measured on, and how: the same for every command that reads a text."""

    text: Path | None = shared(text_file)
    n_ctx: int = shared(ctx_size)
    chunks: int | None = shared(chunks)
    threads: int | None = shared(threads)
    device: str = shared(device)

    @property
    def settings(self) -> ReadingSettings:
        """For the settings of a workflow."""
        from ggufkit.runtime.loading import Device

        return {
            "text": self.text, "n_ctx": self.n_ctx, "chunks": self.chunks, "threads": self.threads,
            "device": Device(self.device),
        }  # fmt: skip


def chosen_recipe(type_name: str | None, recipe: Path | None) -> Any:
    """What --type and --recipe say together."""
    from ggufkit.errors import UsageError
    from ggufkit.recipes.recipe import read_recipe

    if type_name and recipe:
        raise UsageError("--type and --recipe exclude each other; a recipe may name its base mixture itself.")
    return read_recipe(recipe) if recipe else type_name or "Q4_K_M"
