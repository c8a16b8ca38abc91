"""Fills the tables of README.md and docs/ from the results in benchmarks/history/, and draws the plots.

Run it: python benchmarks/pages.py [--check]

A table stands between `<!-- results: NAME -->` and `<!-- end -->`; NAME is one of TABLES, so that no figure in it was
typed by hand. `--check` writes nothing and ends with 1 where a table differs from the results; a test runs it.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import history
from history import Row

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/real-models.md", "docs/calibration.md")
TITLES = {
    "smollm2": "SmolLM2-135M",
    "qwen2.5-coder": "Qwen2.5-Coder-1.5B",
    "smollm2-moe": "SmolLM2 8x135M (upcycled)",
}
PARTS = {
    "convert": "folder to Q4_K_M",
    "calibrate": "importance",
    "perplexity": "perplexity",
    "generate": "128 tokens",
}
FITS = {
    "ggufkit fast": "`--effort fast`",
    "ggufkit balanced": "`balanced`, same types",
    "ggufkit, types chosen": "`balanced`, types chosen",
}
LINES = {"ggufkit balanced": ("s-", "tab:blue"), "ggufkit, types chosen": ("D-", "tab:green")}
MIB = float(1 << 20)
_BLOCK = re.compile(r"(<!-- results: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(head)
    rows = [head, ["---"] * len(head), *map(list, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def speed(rows: list[Row]) -> str:
    """Time, memory and disk traffic of each part beside the peer's."""
    shown = [row for row in rows if row.part in PARTS and row.figure != "file"]
    return table(
        ("model", "what", "figure", "ggufkit", "llama.cpp's tools", "times better", "runs"),
        (
            (TITLES[row.model], PARTS[row.part], f"{row.figure}, {row.unit}", number(statistics.median(row.ours)),
             number(statistics.median(row.peer)), f"**{row.ratio:.2f}**", str(len(row.ours)))
            for row in shown if row.ratio is not None
        ),
    )  # fmt: skip


def by_size(rows: list[Row], part: str) -> list[Row]:
    """Those of one part, model by model as they are named above, small types first; else in their order."""
    return sorted(
        (row for row in rows if row.part == part),
        key=lambda row: (list(TITLES).index(row.model), row.figure.split(", ")[0]),
    )


def fidelity(rows: list[Row]) -> str:
    """Mean KL divergence at equal bytes: the peer's, and the shares of it that are left."""
    shown = {(row.model, *row.figure.split(", ", 1)): row for row in by_size(rows, "fidelity")}
    lines = []
    for model, type_name in dict.fromkeys((model, type_name) for model, type_name, _ in shown):
        found = [shown.get((model, type_name, label)) for label in FITS]
        peer = next(row.peer[0] for row in found if row)
        shares = (f"{row.ours[0] / row.peer[0]:.2f} ± {row.error:.2f}" if row else "not run" for row in found)
        lines.append((TITLES[model], type_name, f"{peer:.4f}", *shares))
    return table(("model", "bytes of", "llama.cpp + importance, nats", *FITS.values()), lines)


def tails(rows: list[Row]) -> str:
    """The 99.9th percentile over tokens and the share of equal likeliest tokens, ours and the peer's."""
    shown = {(row.model, *row.figure.split(", ", 1)): row for row in by_size(rows, "fidelity")}
    files = dict.fromkeys((model, type_name) for model, type_name, _ in shown)
    return table(
        ("model", "bytes of", "file", "ours and llama.cpp's"),
        ((TITLES[file[0]], file[1], said, shown[*file, label].note.rsplit(", ", 1)[0])
         for file in files for label, said in FITS.items() if (*file, label) in shown),
    )  # fmt: skip


def evidence(rows: list[Row]) -> str:
    """Closeness by the number of calibration tokens and their text, types held."""
    shown = [(row, *row.figure.split(", ")) for row in by_size(rows, "evidence")]
    return table(
        ("model", "bytes of", "calibration tokens", "llama.cpp + importance, nats", "`balanced`, nats", "share"),
        ((TITLES[row.model], type_name, " of ".join([n.removesuffix(" tokens"), *(text or ["the shipped text"])]),
          f"{row.peer[0]:.4f}", f"{row.ours[0]:.4f}", f"{row.ours[0] / row.peer[0]:.2f} ± {row.error:.2f}")
         for row, type_name, _, n, *text in shown),
    )  # fmt: skip


def encoders(rows: list[Row]) -> str:
    """Speed and error of each type beside ggml_quantize_chunk, with and without importance."""
    found = {row.figure: row for row in rows if row.part == "encode"}
    lines = []
    for name in dict.fromkeys(figure.split(", ")[0] for figure in found):
        fast = [found[f"{name}, {kind} importance"] for kind in ("with", "without")]
        off = [found[f"{row.figure}, squared error"] for row in fast]
        lines.append((name, " / ".join(f"{row.ours[0]:.0f}" for row in fast),
                      " / ".join(f"{row.ratio:.1f}" for row in fast),
                      " / ".join(f"{row.ours[0] / row.peer[0]:.2f}" for row in off)))  # fmt: skip
    return table(
        ("type", "million weights a second, with importance / without", "times `ggml_quantize_chunk`",
         "squared error, of llama.cpp's"), lines
    )  # fmt: skip


def waiting(rows: list[Row]) -> str:
    """What it costs to have threads sleep soon, and what it saves beside another process."""
    found = [row for row in rows if row.part == "waiting"]
    return table(
        ("model", "generating", "tokens/s", "of", "share"),
        ((TITLES[row.model], row.figure, number(statistics.median(row.ours)),
          f"{number(statistics.median(row.peer))} ({row.peer_command})",
          f"**{statistics.median(row.ours) / statistics.median(row.peer):.2f}**") for row in found),
    )  # fmt: skip


TABLES: dict[str, Callable[[list[Row]], str]] = {
    "speed": speed, "fidelity": fidelity, "tails": tails, "evidence": evidence, "encoders": encoders,
    "waiting": waiting,
}  # fmt: skip


def filled(text: str, rows: list[Row]) -> str:
    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match['name']](rows)}{match[3]}"

    return _BLOCK.sub(fill, text)


def draw(rows: list[Row]) -> None:
    """docs/real-models.svg: size against divergence of each model, the peer's files and ours."""
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row.part == "fidelity" and row.nbytes]
    names = list(dict.fromkeys(row.model for row in shown))
    if not names:
        return
    plt.rcParams["svg.hashsalt"] = "ggufkit"  # the same bytes every time
    figure, panels = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.8), squeeze=False, layout="constrained")
    for panel, name in zip(panels[0], names, strict=True):
        of_model = [row for row in shown if row.model == name]
        peer = sorted({(row.nbytes / MIB, row.peer[0]) for row in of_model if row.figure.endswith("balanced")})
        panel.plot(*zip(*peer, strict=True), "o-", color="0.55", label="llama-quantize + importance")
        for label, (style, color) in LINES.items():
            points = sorted((row.nbytes / MIB, row.ours[0]) for row in of_model if row.figure.endswith(label))
            if points:
                panel.plot(*zip(*points, strict=True), style, color=color, label=FITS[label].replace("`", ""))
        panel.set(title=TITLES[name], xlabel="size of the file, MiB", yscale="log")
        sizes = [row.nbytes / MIB for row in of_model]
        panel.set_xlim(0.9 * min(sizes), 1.1 * max(sizes))
        panel.grid(alpha=0.3, which="both")
    panels[0][0].set_ylabel("mean KL divergence to the original, nats")
    panels[0][-1].legend(frameon=False, fontsize=8)
    figure.savefig(ROOT / "docs" / "real-models.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows = history.measured()
    stale = []
    for page in (ROOT / name for name in PAGES):
        if not page.exists():
            continue
        text = page.read_text()
        new = filled(text, rows)
        if new != text:
            stale.append(page.relative_to(ROOT).as_posix())
            if not options.check:
                page.write_text(new)
    if not options.check:
        draw(rows)
    if options.check and stale:
        sys.exit(f"{', '.join(stale)}: not what benchmarks/history says. Run benchmarks/pages.py.")


if __name__ == "__main__":
    main()
