"""Charts of results as SVG for a page: lines, points and heat maps, drawn by matplotlib. No script, any screen.

Colours of ink and series are CSS variables, so that one drawing serves light and dark pages; heat maps have the same
colours in both. What the pointer rests on says its number: an SVG <title>. Same input, same bytes.
Does not know the page.
"""

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from ggufkit.errors import UsageError
from ggufkit.proof.comparison import ChunkRow
from ggufkit.proof.routers import LayerAgreement
from ggufkit.proof.trial import Check
from ggufkit.workflows.gate import GateResult

# (row, column): value, and what the pointer says
Cells = dict[tuple[int, int], tuple[float, str]]

_INK, _FAINT = "#010203", "#040506"  # stand for CSS variables until the SVG is text
_SERIES = {"pass": "#070809", "fail": "#0a0b0c", "inconclusive": "#0d0e0f", "line": "#101112", "second": "#131415"}
_VARIABLES = {_INK: "ink", _FAINT: "faint", **{code: name for name, code in _SERIES.items()}}
_MOST_LABELLED_CELLS = 96
_MOST_CELLS_WITH_TIPS = 1500  # more are drawn as one picture
_MOST_POINTS = 400  # of a line; more are joined
_REM_AN_INCH = 6.4
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "ggufkit", "text.parse_math": False, "font.family": "sans-serif",
    "font.size": 11, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _FAINT, "axes.titlecolor": _INK,
    "xtick.color": _FAINT, "ytick.color": _FAINT, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
    "grid.color": _FAINT, "grid.alpha": 0.35, "axes.grid": True, "axes.axisbelow": True, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Any, Any, list[str], list[str]]]:
    """A figure, its axes, a list for the tips, and a list that gets the SVG."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("HTML reports need matplotlib. Install it: pip install 'ggufkit[report]'") from error
    svg: list[str] = []
    tips: list[str] = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot(), tips, svg
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg.append(_for_a_page(out.getvalue(), tips, width))


def _for_a_page(svg: str, tips: Sequence[str], width: float) -> str:
    """Without XML prologue, fixed size and ids that would repeat; with CSS variables and tips."""
    svg = svg[svg.index("<svg") :]
    attributes = f'role="img" style="max-width: {_REM_AN_INCH * width:.1f}rem"'
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', rf"<svg {attributes} \1", svg, count=1)
    svg = re.sub(r'<g id="tip-(\d+)">', lambda m: f"<g><title>{escape(tips[int(m[1])])}</title>", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for code, name in _VARIABLES.items():
        svg = svg.replace(code, f"var(--{name})")
    return svg


def _tip(artist: Any, tips: list[str], text: str) -> None:
    artist.set_gid(f"tip-{len(tips)}")
    tips.append(text)


def _log_scale(axes: Any) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 30 * low:  # less than two powers of ten would have one label
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda *_: "")


def limits_chart(checks: Sequence[Check]) -> str:
    """Every check with a limit: what is known of it, in limits. Left of the line is within. Empty without any."""
    rows = [check for check in checks if check.limit and check.n_chunk and check.value is not None]
    if not rows:
        return ""
    with _drawing(8, 0.9 + 0.45 * len(rows)) as (_, axes, tips, svg):
        for y, check in enumerate(reversed(rows)):
            value, low, high = _in_limits(check)
            colour = _SERIES[check.outcome]
            _tip(axes.plot([low, high], [y, y], color=colour, linewidth=5, solid_capstyle="round", alpha=0.45)[0],
                 tips, f"{check.title}: {check.message}")  # fmt: skip
            axes.plot([value], [y], "o", color=colour, markersize=8)
        axes.axvline(1, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(rows)), [check.title for check in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(min(0.0, *(_in_limits(check)[1] for check in rows)) - 0.05, _right_end(rows))
        axes.set_xlabel("in limits: left of 1 is within")
        axes.grid(visible=False, axis="y")
    return svg[0]


def _right_end(rows: Sequence[Check]) -> float:
    return float(min(5.0, max(1.5, *(1.1 * x for check in rows for x in _in_limits(check)))))


def _in_limits(check: Check) -> tuple[float, float, float]:
    """Value, low, high as multiples of the limit, more being worse; unknown ends lie outside the picture."""
    sign = -1.0 if check.at_least else 1.0
    offset = 1.0 if check.at_least else 0.0  # of shares that should be large, what is missing counts
    scale = abs(offset + sign * (check.limit or 0.0)) or 1.0
    ends = [-99.0 if check.low is None else check.low, 99.0 if check.high is None else check.high]
    value, low, high = ((offset + sign * x) / scale for x in (check.value or 0.0, *ends))
    return value, max(min(low, high), -1.0), min(max(low, high), 99.0)


def size_chart(results: Sequence[GateResult]) -> str:
    """Size against mean KL divergence of all candidates; empty for fewer than two that were measured."""
    points = sorted((r for r in results if r.comparison), key=lambda r: r.candidate.nbytes)
    if len(points) < 2:
        return ""
    unit, nbytes = ("GiB", 2**30) if points[-1].candidate.nbytes >= 2**31 else ("MiB", 2**20)
    with _drawing(8, 4.2) as (_, axes, tips, svg):
        sizes = [r.candidate.nbytes / nbytes for r in points]
        rows = [r.comparison.figures["kld_mean"] for r in points if r.comparison]
        axes.plot(sizes, [row.value for row in rows], color=_SERIES["line"], linewidth=1.2, alpha=0.6)
        for r, size, row, lift in zip(points, sizes, rows, _label_lifts(sizes), strict=True):
            colour = _SERIES[r.verdict]
            low = row.value if row.low is None else max(row.low, row.value / 5)
            high = row.value if row.high is None else row.high
            axes.plot([size, size], [low, high], color=colour, linewidth=2, alpha=0.6)
            dot = axes.plot([size], [row.value], "o", color=colour, markersize=9)[0]
            said = f"{size:.1f} {unit}, KL divergence {row.value:.5f}, {r.verdict}"
            _tip(dot, tips, f"{r.candidate.file}: {said}")
            label = r.candidate.type or r.candidate.file
            axes.annotate(label, (size, row.value), xytext=(8, lift), textcoords="offset points", color=_INK)
        axes.margins(x=0.12, y=0.12)
        if min(row.value for row in rows) > 0:
            _log_scale(axes)
        axes.set_xlabel(f"size, {unit}")
        axes.set_ylabel("mean KL divergence")
    return svg[0]


def _label_lifts(sizes: Sequence[float]) -> list[int]:
    """How high above its point each label stands, in points: labels of near neighbours one above the other."""
    lifts, width = [6], (sizes[-1] - sizes[0]) / 6
    for before, size in itertools.pairwise(sizes):
        lifts.append(lifts[-1] + 15 if size - before < width else 6)
    return lifts


def text_chart(chunks: Sequence[ChunkRow]) -> str:
    """KL divergence along the text: mean and largest of each chunk, of several neighbours where there are many."""
    chunks = _joined(chunks)
    with _drawing(8, 3.2) as (_, axes, tips, svg):
        numbers = [row.chunk for row in chunks]
        means, largest = ([getattr(row, key) for row in chunks] for key in ("kld", "kld_max"))
        axes.vlines(numbers, means, largest, color=_FAINT, alpha=0.5, linewidth=1)
        for row in chunks:
            for key, name, colour in (("kld_max", "largest", _SERIES["second"]), ("kld", "mean", _SERIES["line"])):
                dot = axes.plot([row.chunk], [getattr(row, key)], "o", color=colour, markersize=4.5)[0]
                _tip(dot, tips, f"chunk {row.chunk}: {name} KL divergence {getattr(row, key):.5f}")
        axes.plot([], [], "o", color=_SERIES["second"], label="largest of a chunk")
        axes.plot([], [], "o", color=_SERIES["line"], label="mean of a chunk")
        if all(row.kld > 0 for row in chunks):
            _log_scale(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=2)
        axes.set_xlabel("chunk of the text")
        axes.set_ylabel("KL divergence")
    return svg[0]


def _joined(chunks: Sequence[ChunkRow]) -> list[ChunkRow]:
    """At most so many rows as can be told apart."""
    step = max(1, -(-len(chunks) // _MOST_POINTS))
    groups = [chunks[i : i + step] for i in range(0, len(chunks), step)]
    return [
        replace(group[0], kld=sum(row.kld for row in group) / len(group), kld_max=max(row.kld_max for row in group))
        for group in groups
    ]


def router_chart(layers: Sequence[LayerAgreement]) -> str:
    """Share of tokens that go to the same experts, by layer."""
    with _drawing(8, 2.6) as (_, axes, tips, svg):
        for row in layers:
            different = 100 * (1 - row.same_set)
            (bar,) = axes.bar([row.layer], [different], color=_SERIES["line"], width=0.7)
            _tip(bar, tips, f"layer {row.layer}: {different:.2f} % of the tokens go to another set of experts")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("layer")
        axes.set_ylabel("other experts, %")
    return svg[0]


def heat_map(rows: Sequence[str], columns: Sequence[str], cells: Cells, label: str) -> str:
    """Colours from 0 to the largest value, so that equal cells look equal. Columns lie along the page."""
    width = max(5.0, min(12.0, 2.2 + 0.62 * len(columns)))
    with _drawing(width, 1.2 + 0.36 * len(rows)) as (figure, axes, tips, svg):
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.patches import Rectangle

        values = [value for value, _ in cells.values()]
        colours = ScalarMappable(Normalize(0, max(*values, 1e-12)), "viridis")
        if len(cells) > _MOST_CELLS_WITH_TIPS:
            picture = np.full((len(rows), len(columns)), np.nan)
            for (y, x), (value, _) in cells.items():
                picture[y, x] = value
            axes.imshow(picture, cmap=colours.cmap, norm=colours.norm, aspect="auto", interpolation="nearest")
            cells = {}
        for (y, x), (value, text) in cells.items():
            r, g, b, _ = colours.to_rgba(np.array([value]))[0]
            patch = axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=(r, g, b), linewidth=0.6))
            _tip(patch, tips, text)
            if len(cells) <= _MOST_LABELLED_CELLS:
                ink = "black" if 0.3 * r + 0.59 * g + 0.11 * b > 0.5 else "white"
                axes.text(x, y, f"{value:.3f}".lstrip("0") or "0", ha="center", va="center", color=ink, fontsize=9)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), rows)
        step = -(-len(columns) // 24)
        axes.set_xticks(range(0, len(columns), step), columns[::step])
        axes.set_xlabel("layer")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        figure.colorbar(colours, ax=axes, label=label, shrink=0.9, pad=0.02).outline.set_visible(False)
    return svg[0]
