"""Renders a chat template, in a process of its own with little time and memory: templates come from strangers.

Jinja's sandbox keeps a template from Python's insides but not from looping for ever or filling the memory; the limits
of the process do. `templates.TemplateWorker` starts it and speaks to it.
"""

import datetime
import json
import math
import resource
import sys
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2
MEMORY_NBYTES = 512 << 20
MAX_OUTPUT_CHARS = 8 << 20
_MAX_DEPTH = 180  # a chain of so many `+` nests as deep; Python's own parser ends at 200
_REFUSED = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Pow)


class TemplateRefusedError(Exception):
    """The template does something that chat templates do not need."""


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks the assistant's tokens for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja as Hugging Face sets it up for chat templates. Source: transformers chat_template_utils."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    env.filters["tojson"] = _tojson
    return env


def compiled(source: str) -> jinja2.Template:
    """The template, ready to render. Raises jinja2.TemplateError or TemplateRefusedError."""
    env = environment()
    check(env.parse(source))
    return env.from_string(source)


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The prompt. Raises jinja2.TemplateError or TemplateRefusedError."""
    parts, n_chars = [], 0
    for part in template.generate(**variables):
        n_chars += len(part)
        if n_chars > MAX_OUTPUT_CHARS:
            raise TemplateRefusedError(f"it writes more than {MAX_OUTPUT_CHARS} characters")
        parts.append(part)
    return "".join(parts)


def check(tree: nodes.Template) -> None:
    """Refuse what reads files, computes powers, reaches for private attributes, or nests beyond reason."""
    for node, depth in _walk(tree):
        if depth > _MAX_DEPTH:
            raise TemplateRefusedError(f"it nests deeper than {_MAX_DEPTH}")
        if isinstance(node, _REFUSED):
            raise TemplateRefusedError(
                f"line {node.lineno}: {type(node).__name__.lower()} is not allowed in a chat template"
            )
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise TemplateRefusedError(f"line {node.lineno}: it reaches for {node.attr!r}")


def _walk(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int]]:
    todo = [(tree, 0)]
    while todo:
        node, depth = todo.pop()
        yield node, depth
        todo.extend((child, depth + 1) for child in node.iter_child_nodes())


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Worker:
    """Keeps one template; each rendering has its own two seconds."""

    def __init__(self) -> None:
        self._template: jinja2.Template | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        """`{}` for `{"template": …}`, which comes first; `{"text": …}` for `{"variables": …}`; or `{"error": …}`."""
        try:
            if "template" in request:
                self._template = compiled(request["template"])
                return {}
            assert self._template is not None
            return {"text": render(self._template, request["variables"])}
        except MemoryError:
            return {"error": f"it needs more than {MEMORY_NBYTES >> 20} MiB of memory"}
        except RecursionError:
            return {"error": "it nests too deep"}
        except Exception as error:  # a template can raise whatever its expressions raise
            return {"error": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    """Entry of the process: a line of JSON in, a line of JSON out, until the input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "darwin":  # macOS does not keep RLIMIT_AS; time and output limits hold there
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_NBYTES, MEMORY_NBYTES))
    sys.setrecursionlimit(20 * _MAX_DEPTH)
    worker = Worker()
    for line in sys.stdin.buffer:
        _allow_time()
        answer = worker.answer(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _allow_time() -> None:
    """Processor time for one more rendering: the kernel ends the process where it is used up."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = math.ceil(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
