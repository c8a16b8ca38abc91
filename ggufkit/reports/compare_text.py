"""A comparison of two models for people: figures with intervals, routers, the worst passage."""

from collections.abc import Sequence

from ggufkit.formats.printable import cleaned
from ggufkit.proof.comparison import Comparison, Passage
from ggufkit.proof.routers import LayerAgreement
from ggufkit.reports.columns import columns
from ggufkit.reports.units import human_seconds
from ggufkit.reports.wording import figure_lines, model_line, text_line


def render(result: Comparison, width: int | None = None) -> str:
    """The result of `ggufkit compare`; `width` of the terminal, None for a pipe."""
    result = cleaned(result, lines=True)  # passages are quoted with their line breaks below
    head = (
        f"original   {model_line(result.base)}\n"
        f"candidate  {model_line(result.candidate)}\n"
        f"text       {text_line(result.text)}, {human_seconds(result.seconds)}"
    )
    blocks = [head, figures_table(result, width)]
    if result.routers:
        blocks.append(_routers(result.routers))
    if result.passages:
        blocks.append(_passage(result.passages[0]))
    blocks += [f"note: {notice}" for notice in result.notices]
    return "\n\n".join(blocks)


def figures_table(result: Comparison, width: int | None = None) -> str:
    """All figures; intervals take chunks as independent."""
    rows = [(line.title, line.value, line.interval) for line in figure_lines(result.figures)]
    return columns(("", "value", "95 % interval"), rows, right=(1,), soft={0: " "}, width=width)


def _routers(layers: Sequence[LayerAgreement]) -> str:
    worst = min(layers, key=lambda layer: layer.same_set)
    overlap = sum(layer.overlap for layer in layers) / len(layers)
    return (
        f"routers: {100 * overlap:.2f} % of the original's experts are chosen by the candidate, too; least alike in "
        f"layer {worst.layer}, where {100 * worst.same_set:.2f} % of the tokens go to the same experts"
    )


def _passage(passage: Passage) -> str:
    def said(words: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"{word!r} {100 * p:.0f} %" for word, p in words[:3])

    before = passage.before[-60:]
    return (
        f"strays most (KL divergence {passage.kld:.3f}) after {before!r}, where {passage.target!r} follows\n"
        f"  original   {said(passage.base)}\n"
        f"  candidate  {said(passage.candidate)}"
    )
