"""The text of any result: which view shows which kind. Does not know layouts."""

import importlib
import inspect
from typing import Any

from ggufkit.reports.schemas import PREFIX, name_of


def render(result: Any, width: int | None = None, **options: bool) -> str:
    """The result as its command prints it; `width` of a terminal, None breaks no line; `options` of this view."""
    from ggufkit.reports.columns import wrapped

    kind = name_of(type(result)).removeprefix(PREFIX).partition("@")[0].replace("-", "_")
    view = importlib.import_module(f"ggufkit.reports.{kind}_text").render
    takes_width = "width" in inspect.signature(view).parameters
    return wrapped(view(result, **({"width": width} if takes_width else {}), **options), width)
