"""A finished calibration as text and as JSON, with its coverage. Knows its figures, not how they came about."""

from typing import Any

from ggufkit.fitting.coverage import Coverage, LayerCoverage
from ggufkit.reports.units import human_count, human_seconds
from ggufkit.workflows.calibrate import CalibrateReport

SCHEMA = "ggufkit/calibrate@1"
_MAX_LAYERS = 80


def as_dict(report: CalibrateReport) -> dict[str, Any]:
    """The result for machines."""
    return {
        "schema": SCHEMA,
        "output": str(report.output),
        "model": report.model,
        "texts": list(report.texts),
        "text_sha256": report.text_sha256,
        "n_chunk": report.n_chunk,
        "n_ctx": report.n_ctx,
        "n_tokens": report.n_tokens,
        "n_entries": report.n_entries,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
        "coverage": coverage_dict(report.coverage),
        "notes": list(report.notes),
    }


def coverage_dict(coverage: Coverage) -> dict[str, Any]:
    """Tokens by layer and expert, and what is thin."""
    return {
        "n_tokens": coverage.n_tokens,
        "layers": [{"layer": row.layer, "tokens_per_expert": row.counts.tolist()} for row in coverage.layers],
        "under_visited": [{"layer": layer, "expert": expert} for layer, expert in coverage.under_visited],
        "notes": list(coverage.notes),
    }


def render(report: CalibrateReport) -> str:
    """The result for people."""
    lines = [
        f"{report.output}  {report.n_entries} tensors, {human_count(report.n_tokens)} new tokens of "
        f"{', '.join(report.texts)}, {human_seconds(report.seconds)}"
    ]
    if report.interrupted:
        lines.append(
            f"note: interrupted after {report.n_chunk} chunks; what was seen is kept. Go on with "
            f"--add-to {report.output.name} --skip-tokens {report.n_tokens}"
        )
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join([*lines, render_coverage(report.coverage)])


def render_coverage(coverage: Coverage) -> str:
    """A line a layer: the least, median and most visited expert. Empty layers of a dense model give one line."""
    if not coverage.layers:
        return f"coverage: {human_count(coverage.n_tokens)} tokens for every tensor (no experts)"
    lines = [f"coverage: {human_count(coverage.n_tokens)} tokens; tokens an expert saw, by layer"]
    lines += [_layer(row) for row in coverage.layers[:_MAX_LAYERS]]
    if len(coverage.layers) > _MAX_LAYERS:
        lines.append(f"  and {len(coverage.layers) - _MAX_LAYERS} more layers")
    return "\n".join(lines + [f"note: {note}" for note in coverage.notes])


def _layer(row: LayerCoverage) -> str:
    counts = sorted(int(n) for n in row.counts)
    thin = f"   thin: {', '.join(map(str, row.under_visited[:12]))}" if row.under_visited else ""
    return (
        f"  layer {row.layer:3d}   least {counts[0]} (expert {int(row.counts.argmin())})   "
        f"median {counts[len(counts) // 2]}   most {counts[-1]} (expert {int(row.counts.argmax())}){thin}"
    )
