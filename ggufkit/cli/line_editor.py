"""`LineEditor`: what a person says in a conversation; arrow keys, history, a paste of several lines is one message.

Knows prompt_toolkit, which is loaded with the first line. Does not know models.
"""

import os
import sys
from typing import Any

from ggufkit.cli import console

_QUOTES = '"""'
_STYLE = "fg:ansidefault"  # without a colour the space at its end would not be written


class LineEditor:
    """Reads messages on a terminal. The prompt stands on stdout, or on stderr where stdout goes elsewhere."""

    def __init__(self) -> None:
        os.environ.setdefault(
            "PROMPT_TOOLKIT_NO_CPR", "1"
        )  # asking where the cursor is prints rubbish on some terminals
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        shown = sys.stdout if sys.stdout.isatty() else sys.stderr
        self._session: PromptSession[str] = PromptSession(
            output=create_output(stdout=shown),
            key_bindings=_bindings(),
            prompt_continuation=lambda _width, _line, wraps: "" if wraps else "… ",
        )

    def read(self) -> str | None:
        """The message; "" after Ctrl-C, None at the end of input."""
        try:
            return without_quotes(self._session.prompt([(_STYLE, "> ")]))
        except KeyboardInterrupt:
            return ""
        except EOFError:
            console.say("")
            return None

    def confirm(self, question: str) -> bool:
        """Yes, also by plain Enter; no, also by Ctrl-C and the end of input."""
        try:
            return not self._session.prompt([(_STYLE, f"{question} [Y/n] ")]).strip().lower().startswith("n")
        except (KeyboardInterrupt, EOFError):
            return False


def without_quotes(text: str) -> str:
    """A message without the three quotes around several lines, and without white space around it."""
    text = text.strip()
    return text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip() if text.startswith(_QUOTES) else text


def is_unfinished(text: str) -> bool:
    """Whether `text` opens three quotes and does not close them: Enter begins another line."""
    text = text.strip()
    return text.startswith(_QUOTES) and not (len(text) >= 2 * len(_QUOTES) and text.endswith(_QUOTES))


def _bindings() -> Any:
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import KeyBindings

    def begin_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    bindings = KeyBindings()
    bindings.add("enter", filter=Condition(lambda: is_unfinished(get_app().current_buffer.text)))(begin_line)
    bindings.add("escape", "enter")(begin_line)  # Alt-Enter
    return bindings
