"""What every command's paths must be, looked at once the options are parsed and before anything else is done.

Inputs are regular files or folders; outputs are places that `require_place` accepts, none of them an input, no two the
same. An option takes part by its type: `options.PATH` is read, `options.OUTPUT` is written.
"""

import os
import stat
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click


def checked(callback: Callable[..., Any]) -> Callable[..., Any]:
    """`callback`, called once the paths of the command at hand are in order."""

    @wraps(callback)
    def call(**given: Any) -> Any:
        _check(click.get_current_context())
        return callback(**given)

    return call


def _check(ctx: click.Context) -> None:
    from ggufkit.cli import options
    from ggufkit.errors import UsageError
    from ggufkit.formats.outputs import followed, require_place

    read, written = list(_paths(ctx, options.PATH)), list(_paths(ctx, options.OUTPUT))
    for path in read:
        _require_readable(path)
    places = [os.path.realpath(followed(path)) for path in written]
    for path, place in zip(written, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{path} is given for two outputs. Give each a name of its own.")
        require_place(path, read=read, force=ctx.params.get("force", True))


def _paths(ctx: click.Context, kind: click.Path) -> Iterator[Path]:
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if param.type is kind and value is not None:
            yield from value if isinstance(value, tuple) else (value,)


def _require_readable(path: Path) -> None:
    """Raise InputError for what would be waited on for ever: pipes, devices, sockets."""
    from ggufkit.errors import InputError
    from ggufkit.formats.files import shown

    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # absent or not permitted: opening it gives a better message
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{shown(str(path))} is not a regular file (a pipe or a device?). Copy it to a file first.")
