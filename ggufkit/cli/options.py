"""Options that commands share: one decorator each, so that a flag means the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ggufkit.reports.units import parse_bytes

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Bytes(click.ParamType):
    """A size such as 2GiB, 800M or 4096."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(value)
        except ValueError:
            self.fail(f"{value!r} is no size. Write 2GiB, 800M or a number of bytes.", param, ctx)


PATH = click.Path(path_type=Path)

json_flag: Decorator = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
threads: Decorator = click.option(
    "-t", "--threads", type=click.IntRange(min=1), default=None, help="Threads. Default: the processors at hand."
)
text_file: Decorator = click.option(
    "--text", type=PATH, default=None, help="UTF-8 text to measure on. Default: the shipped prose."
)
ctx_size: Decorator = click.option("--ctx", "n_ctx", type=click.IntRange(min=8), default=512, show_default=True,
                                   help="Tokens of a chunk; the second half is scored.")  # fmt: skip
chunks: Decorator = click.option("--chunks", type=click.IntRange(min=1), default=None, help="At most so many chunks.")
device: Decorator = click.option("--device", type=click.Choice(["auto", "cpu", "metal"]), default="auto", show_default=True,
                                 help="Where to compute.")  # fmt: skip
