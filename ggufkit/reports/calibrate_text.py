"""A finished calibration: what is told of it and its coverage, as JSON and as text."""

from dataclasses import dataclass
from pathlib import Path

from ggufkit.fitting.coverage import Coverage
from ggufkit.formats.printable import cleaned
from ggufkit.reports.units import human_count, human_seconds
from ggufkit.workflows.calibrate import CalibrateReport

_MAX_LAYERS = 80


@dataclass(frozen=True, slots=True)
class LayerTokens:
    """Tokens that each expert of a layer saw."""

    layer: int
    tokens_per_expert: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert of one layer."""

    layer: int
    expert: int


@dataclass(frozen=True, slots=True)
class CoverageResult:
    """Tokens by layer and expert, and which experts saw few."""

    n_tokens: int
    layers: tuple[LayerTokens, ...]
    under_visited: tuple[Expert, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, coverage: Coverage) -> "CoverageResult":
        """What is told of `coverage`."""
        return cls(
            n_tokens=coverage.n_tokens,
            layers=tuple(LayerTokens(row.layer, tuple(map(int, row.counts))) for row in coverage.layers),
            under_visited=tuple(Expert(*pair) for pair in coverage.under_visited),
            notes=coverage.notes,
        )


@dataclass(frozen=True, slots=True)
class CalibrateResult:
    """What was gathered, for machines; see `CalibrateReport`."""

    output: str
    model: str
    texts: tuple[str, ...]
    text_sha256: str
    n_chunk: int
    n_ctx: int
    n_tokens: int
    n_entries: int
    interrupted: bool
    seconds: float
    coverage: CoverageResult
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, report: CalibrateReport) -> "CalibrateResult":
        """What is told of `report`."""
        return cls(
            output=str(report.output),
            model=report.model,
            texts=report.texts,
            text_sha256=report.text_sha256,
            n_chunk=report.n_chunk,
            n_ctx=report.n_ctx,
            n_tokens=report.n_tokens,
            n_entries=report.n_entries,
            interrupted=report.interrupted,
            seconds=report.seconds,
            coverage=CoverageResult.of(report.coverage),
            notes=report.notes,
        )


@dataclass(frozen=True, slots=True)
class MergeResult:
    """Importance files that were added up."""

    output: str
    coverage: CoverageResult


def render(report: CalibrateResult) -> str:
    """The result for people."""
    report = cleaned(report)
    lines = [
        f"{report.output}  {report.n_entries} tensors, {human_count(report.n_tokens)} new tokens of "
        f"{', '.join(report.texts)}, {human_seconds(report.seconds)}"
    ]
    if report.interrupted:
        lines.append(
            f"note: interrupted after {report.n_chunk} chunks; what was seen is kept. Go on with "
            f"--add-to {Path(report.output).name} --skip-tokens {report.n_tokens}"
        )
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join([*lines, render_coverage(report.coverage)])


def render_coverage(coverage: CoverageResult) -> str:
    """A line a layer: the least, median and most visited expert. Empty layers of a dense model give one line."""
    if not coverage.layers:
        return f"coverage: {human_count(coverage.n_tokens)} tokens for every tensor (no experts)"
    lines = [f"coverage: {human_count(coverage.n_tokens)} tokens; tokens an expert saw, by layer"]
    lines += [_layer(row, coverage) for row in coverage.layers[:_MAX_LAYERS]]
    if len(coverage.layers) > _MAX_LAYERS:
        lines.append(f"  and {len(coverage.layers) - _MAX_LAYERS} more layers")
    return "\n".join(lines + [f"note: {note}" for note in coverage.notes])


def _layer(row: LayerTokens, coverage: CoverageResult) -> str:
    counts = sorted((n, expert) for expert, n in enumerate(row.tokens_per_expert))
    few = [str(one.expert) for one in coverage.under_visited if one.layer == row.layer]
    thin = f"   thin: {', '.join(few[:12])}" if few else ""
    (least, rare), (most, busy) = counts[0], counts[-1]
    return (
        f"  layer {row.layer:3d}   least {least} (expert {rare})   median {counts[len(counts) // 2][0]}   "
        f"most {most} (expert {busy}){thin}"
    )
