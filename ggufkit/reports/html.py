"""Gate results as one HTML page that needs nothing else: no network, no script; light and dark.

The first result is shown in full, the others beside it in the curve of size against divergence.
"""

import dataclasses
import importlib.resources
from collections.abc import Sequence

import jinja2

from ggufkit.formats.printable import cleaned
from ggufkit.reports import charts, heat
from ggufkit.reports.reproduce import command
from ggufkit.reports.units import human_bytes
from ggufkit.reports.wording import MARKS, check_lines, figure_lines, model_line, text_line
from ggufkit.workflows.gate import GateResult

_FOLDER = importlib.resources.files("ggufkit.reports").joinpath("page")
_N_PASSAGES = 8


def render(results: Sequence[GateResult]) -> str:
    """The page. Raises UsageError where matplotlib is not installed."""
    results = cleaned(list(results), lines=True)
    main = results[0]
    comparison = main.comparison
    tensors = main.diff.tensors if main.diff else []
    return _template("report.html").render(
        main=main,
        comparison=comparison,
        results=results,
        css=_FOLDER.joinpath("report.css").read_text(encoding="utf-8"),
        marks=MARKS,
        checks=list(check_lines(main.checks)),
        figures=list(figure_lines(comparison.figures)) if comparison else [],
        passages=comparison.passages[:_N_PASSAGES] if comparison else [],
        findings=main.diff.findings if main.diff else [],
        limits_chart=charts.limits_chart(main.checks),
        size_chart=charts.size_chart(results),
        role_map=heat.role_map(tensors),
        expert_map=heat.expert_map(tensors),
        text_chart=charts.text_chart(comparison.chunks) if comparison else "",
        router_chart=charts.router_chart(comparison.routers) if comparison and comparison.routers else "",
        provenance=provenance(main),
        command=command(main),
        model_line=model_line,
        text_line=text_line,
        human_bytes=human_bytes,
    )


def provenance(result: GateResult) -> list[tuple[str, str]]:
    """What the result was made from and with: (what, value)."""
    comparison = result.comparison
    config = result.config
    rows = [
        ("candidate", f"{model_line(result.candidate)}, fingerprint {result.candidate.fingerprint}"),
        ("original", f"{model_line(result.base)}, fingerprint {result.base.fingerprint}"),
    ]
    if comparison:
        rows.append(("text", f"{text_line(comparison.text)}, SHA-256 {comparison.text.sha256}"))
    rows += [
        ("decision", f"alpha {config.alpha:g}, at most {config.chunks} chunks, seed {config.seed}"),
        ("limits", ", ".join(f"{name} {limit:g}" for name, limit in config.limits.items()) or "none"),
        ("ignored", ", ".join(config.ignore) or "nothing"),
    ]
    return rows + [(name, str(value)) for name, value in dataclasses.asdict(result.environment).items()]


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_FOLDER.joinpath(f"{name}.jinja").read_text(encoding="utf-8"))
