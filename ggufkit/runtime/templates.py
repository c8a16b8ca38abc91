"""`TemplateWorker`: the process in which a chat template is rendered, kept between renderings.

Knows the process and its protocol: a line of JSON in, a line of JSON out. Does not know models or tokens.
"""

import json
import os
import select
import subprocess
import threading
import time
from typing import Any

from ggufkit.errors import EngineError, GgufkitError, InputError
from ggufkit.formats.files import shown
from ggufkit.runtime import child

SECONDS = 10.0  # of real time a rendering; the worker allows itself two of the processor


class TemplateWorker:
    """Renders templates, each for itself: another template gets another process. It starts with the first rendering.

    Safe to use from several threads. Close it, or use it as a context manager.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._template = ""
        self._lock = threading.Lock()

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """The prompt's text. Raises InputError where the template fails or uses up its time or memory."""
        with self._lock:
            if self._process is None or self._template != template:
                self._stop()
                self._start(template)
            try:
                answer = self._ask({"variables": variables})
            except BaseException:  # Ctrl-C too: its answer would belong to no request
                self._stop()
                raise
        return str(_checked(answer)["text"])

    def close(self) -> None:
        """End the process. Safe to call twice; a later rendering starts another one."""
        with self._lock:
            self._stop()

    def __enter__(self) -> "TemplateWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, template: str) -> None:
        self._process = subprocess.Popen(
            child.python("ggufkit.runtime.template_worker"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,  # a Ctrl-C of the terminal is not the worker's affair
        )  # fmt: skip
        self._template = template
        try:
            _checked(self._ask({"template": template}))
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()  # closes both pipes and takes the exit code

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process.stdout.fileno(), time.monotonic() + SECONDS)
        except (BrokenPipeError, EOFError):
            raise _death(process) from None
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise InputError(f"the chat template fails: {shown(answer['error']).rstrip('.')}. --raw needs no template.")
    return answer


def _death(process: subprocess.Popen[bytes]) -> GgufkitError:
    """Why the worker ended: its limits, or something that is not the template's fault."""
    said = process.communicate()[1].decode(errors="replace").strip().rpartition("\n")[2]
    if process.returncode < 0 or said.startswith("MemoryError"):
        return InputError(
            "the chat template used up its time or memory (two seconds of processor, 512 MiB): it is broken or hostile"
        )
    return EngineError(
        f"the process that renders chat templates ends with code {process.returncode} ({shown(said) or 'not a word'}). "
        "Reinstall ggufkit and jinja2; --raw needs no template."
    )


def _read_line(handle: int, until: float) -> bytes:
    """One line. Raises EOFError where the process ends first, InputError where time is up."""
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while not (parts and parts[-1].endswith(b"\n")):
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise InputError(f"the chat template did not finish within {SECONDS:g} seconds")
        parts.append(os.read(handle, 1 << 16))
        if not parts[-1]:
            raise EOFError
    return b"".join(parts)
