"""`ggufkit gate`: exit code 0 pass, 3 not met, 4 inconclusive."""

import dataclasses
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import console, options

if TYPE_CHECKING:
    from ggufkit.workflows.gate import GateResult

EXIT_CODES = {"pass": 0, "fail": 3, "inconclusive": 4}

EXAMPLES = """
\b
Examples:
  ggufkit gate mixtral-Q4_K_M.gguf --baseline mixtral-bf16.gguf
  ggufkit gate out.gguf --baseline original.baseline --config gate.toml --junit gate.xml -o gate.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("candidate", type=options.PATH)
@click.option("--baseline", type=options.PATH, required=True, help="The original as a GGUF, or a baseline file of it.")
@click.option("--config", type=options.PATH, default=None, help="TOML with limits. Default: limits for 4 bits.")
@options.text_file
@options.ctx_size
@click.option("--chunks", type=click.IntRange(min=2), default=None, help="Most chunks, instead of the config's.")
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Order of chunks, instead of the config's.")
@options.threads
@options.device
@click.option(
    "--complete", is_flag=True, help="Read all chunks, for precise figures, though the answer is sure before."
)
@click.option("--weights/--no-weights", default=True, help="Compare weights too, where the baseline has any.")
@click.option("-o", "--output", type=options.OUTPUT, default=None, help="Write the JSON result here.")
@click.option("--junit", type=options.OUTPUT, default=None, help="Write a JUnit report here.")
@click.option("--markdown", type=options.OUTPUT, default=None, help="Write a Markdown summary here.")
@click.option(
    "--github/--no-github", default=None, help="Summary and annotations for GitHub.  [default: where it runs]"
)
@options.json_flag
def command(
    *,
    candidate: Path,
    baseline: Path,
    config: Path | None,
    text: Path | None,
    n_ctx: int,
    chunks: int | None,
    seed: int | None,
    threads: int | None,
    device: str,
    complete: bool,
    weights: bool,
    output: Path | None,
    junit: Path | None,
    markdown: Path | None,
    github: bool | None,
    as_json: bool,
) -> None:
    """Judge whether CANDIDATE may be published: structure first, then quality, until the answer is sure.

    Exit code 0: pass, 3: a limit is not met, 4: inconclusive within the text that may be read.
    """
    from ggufkit.formats.baseline import is_baseline
    from ggufkit.proof.limits import GateConfig, read_config
    from ggufkit.runtime import footprint
    from ggufkit.runtime.loading import Device
    from ggufkit.workflows.gate import GateSettings, gate

    asked = read_config(config) if config else GateConfig()
    asked = dataclasses.replace(asked, chunks=chunks or asked.chunks, seed=asked.seed if seed is None else seed)
    wanted = GateSettings(
        candidate=candidate, baseline=baseline, config=asked, text=text, n_ctx=n_ctx, complete=complete,
        weights=weights, threads=threads, device=Device(device),
    )  # fmt: skip
    models = [path for path in (wanted.baseline, candidate) if not is_baseline(path)]
    console.say_memory(lambda: footprint.scored(models, wanted.n_ctx))
    with console.progress(f"gate {candidate.name}") as update:
        result = gate(wanted, update)
    console.show_result(result, as_json=as_json)
    _write_reports(result, output, junit, markdown)
    if github or (github is None and os.environ.get("GITHUB_ACTIONS") == "true"):
        _tell_github(result, output)
    raise SystemExit(EXIT_CODES[result.verdict])


def _write_reports(result: "GateResult", output: Path | None, junit: Path | None, markdown: Path | None) -> None:
    from ggufkit.formats.atomic import write_atomic
    from ggufkit.reports import junit as junit_view
    from ggufkit.reports import markdown as markdown_view
    from ggufkit.reports.result import as_dict

    if output is not None:
        write_atomic(output, [console.json_text(as_dict(result)).encode()])
    for path, view in ((junit, junit_view), (markdown, markdown_view)):
        if path is not None:
            write_atomic(path, [view.render(result).encode()])


def _tell_github(result: "GateResult", output: Path | None) -> None:
    """The step's outputs, summary and annotations. Annotations go to stderr: GitHub reads both streams."""
    from ggufkit.reports import annotations, markdown

    for line in annotations.render(result):
        console.tell_runner(line)
    _append("GITHUB_STEP_SUMMARY", markdown.render(result) + "\n")
    named = {"verdict": str(result.verdict)} | ({"report": str(output)} if output is not None else {})
    _append("GITHUB_OUTPUT", "".join(_assignment(name, value) for name, value in named.items()))


def _assignment(name: str, value: str) -> str:
    """An output in a form that GitHub reads whatever the value is: between two random lines."""
    end = f"end-{secrets.token_hex(16)}"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _append(variable: str, text: str) -> None:
    """Add to the file that the runner named. The verdict stands without it."""
    place = os.environ.get(variable)
    if not place:
        return
    try:
        with Path(place).open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        console.say(f"{variable} {place}: {error.strerror}. It is left out.")
