"""The HTML report: one file that needs nothing else, safe whatever models say, and right in a real browser."""

import copy
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ggufkit.errors import UsageError
from ggufkit.reports import charts, html
from ggufkit.reports.result import parse
from ggufkit.workflows.gate import GateResult

pytest.importorskip("matplotlib")
RESULT = json.loads((Path(__file__).parents[1] / "data" / "reports" / "gate.json").read_text())
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def parsed(*results: dict[str, Any]) -> list[GateResult]:
    return [parse(result) for result in results]


def others() -> list[dict[str, Any]]:
    """More candidates: larger and better."""
    made = []
    for i, outcome in enumerate(("pass", "inconclusive", "pass"), 1):
        one = copy.deepcopy(RESULT) | {"verdict": outcome}
        one["candidate"] |= {"nbytes": int(RESULT["candidate"]["nbytes"] * (1 + i / 2)), "file": f"larger-{i}.gguf"}
        row = one["comparison"]["figures"]["kld_mean"]
        one["comparison"]["figures"]["kld_mean"] = {key: value and value / 3**i for key, value in row.items()}
        made.append(one)
    return made


class Page(HTMLParser):
    """Tags, their attributes, and text by the tag that holds it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    return html.render(parsed(RESULT, *others()))


def test_the_page_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe", "img", "object")]
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert len(page.encode()) < 2 << 20


def test_the_verdict_stands_first(page: str) -> None:
    text = " ".join(" ".join(Page(page).texts).split())
    order = [text.index(part) for part in ("✗ fail", "Checks", "Size against", "Where the weights", "Worst passages")]
    assert order == sorted(order)
    assert RESULT["sentence"] in text
    assert RESULT["comparison"]["text"]["sha256"] in text


def test_the_same_results_give_the_same_page(page: str) -> None:
    assert html.render(parsed(RESULT, *others())) == page


def test_colours_follow_the_theme(page: str) -> None:
    used = set(re.findall(r"var\(--([a-z-]+)\)", page))
    light, dark = (
        set(re.findall(r"--([a-z-]+):", block)) for block in page.split("@media (prefers-color-scheme: dark)")[:2]
    )
    assert used <= light
    assert light == dark & light
    assert not re.search(r"#(010203|040506|070809|0a0b0c|0d0e0f|101112|131415)", page)


def test_what_files_and_models_say_stays_text() -> None:
    evil = copy.deepcopy(RESULT)
    attack = "</style></title><script>alert(1)</script><img src=x onerror=alert(1)>$\\frac{1}{2}$"
    evil["candidate"] |= {"file": attack, "name": attack, "type": attack}
    evil["sentence"] = attack
    evil["checks"][-1] |= {"title": attack, "message": attack}
    evil["comparison"]["passages"][0] |= {"before": attack, "target": attack}
    evil["comparison"]["passages"][0]["base"][0] = [attack, 0.5]
    evil["comparison"]["notices"] = [attack]
    evil["diff"]["tensors"][3] |= {"type": attack}
    evil["diff"]["findings"][0] |= {"message": attack}
    tags = {tag for tag, _ in Page(html.render(parsed(evil, *others()))).tags}
    assert "script" not in tags and "img" not in tags


def test_parts_without_data_are_left_out() -> None:
    bare = copy.deepcopy(RESULT) | {"comparison": None, "diff": None}
    shown = html.render(parsed(bare))
    for part in ("Size against divergence", "Where the weights", "Worst passages", "Along the text"):
        assert part not in shown


def test_empty_lists_leave_their_parts_empty() -> None:
    bare = copy.deepcopy(RESULT)
    bare["checks"], bare["comparison"]["chunks"], bare["comparison"]["passages"], bare["diff"]["tensors"] = (
        [],
        [],
        [],
        [],
    )
    bare["comparison"]["routers"] = []
    shown = html.render(parsed(bare))
    assert "Worst passages" not in shown and "Where the weights" not in shown


def test_near_candidates_stay_apart_on_the_curve() -> None:
    """Labels of neighbours do not overlap, sizes of real models are in GiB, less than a power of ten has ticks."""
    near = []
    for size, kld in ((22.5, 0.06), (26.4, 0.021), (26.5, 0.0205), (33.0, 0.011)):
        made = copy.deepcopy(RESULT)
        made["candidate"] |= {"type": f"T{size}", "nbytes": int(size * 2**30)}
        made["comparison"]["figures"]["kld_mean"] |= {"value": kld, "low": 0.9 * kld, "high": 1.1 * kld}
        near.append(made)
    svg = charts.size_chart(parsed(*near))
    assert "size, GiB" in svg
    assert {"0.01", "0.02", "0.05"} <= set(re.findall(r"<text[^>]*>([^<]+)</text>", svg))
    places = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>T26', svg)
    (_, one), (_, other) = places
    assert abs(float(one) - float(other)) > 11, "labels overlap"


def test_a_large_model_stays_under_two_megabytes() -> None:
    """80 layers of 64 experts, 4,000 chunks."""
    large = copy.deepcopy(RESULT)
    row = next(t for t in large["diff"]["tensors"] if t["name"].endswith("ffn_up_exps.weight"))
    large["diff"]["tensors"] = [
        row | {"name": f"blk.{layer}.{role}.weight", "experts": [0.3] * 64 if "exps" in role else []}
        for layer in range(80)
        for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up_exps", "ffn_gate_exps", "ffn_down_exps")
    ]
    large["comparison"]["chunks"] = [RESULT["comparison"]["chunks"][0] | {"chunk": i} for i in range(4000)]
    assert len(html.render(parsed(large)).encode()) < 2 << 20


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'ggufkit\[report\]'"):
        html.render(parsed(RESULT))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize(("theme", "scheme"), [("light", 1), ("dark", 0)])
def test_a_browser_shows_it_in_both_themes(theme: str, scheme: int, page: str, tmp_path: Path) -> None:
    from PIL import Image

    assert CHROMIUM is not None
    (tmp_path / "report.html").write_text(page)
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}",
            "--window-size=1000,3000", f"--screenshot={shot}", (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, "the page refused something of its own"
    picture = Image.open(shot).convert("RGB")
    red, green, blue = picture.getpixel((3, 3))  # type: ignore[misc]
    assert (min(red, green, blue) > 240) if theme == "light" else (max(red, green, blue) < 60)
    # ink on the page: more than a handful of colours, that is charts and text, down to the end of the window
    for top in range(0, 3000, 500):
        assert len(set(picture.crop((0, top, 1000, top + 500)).resize((200, 100)).getcolors(20_000) or ())) > 20
