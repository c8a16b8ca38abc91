"""Views of one result: text, Markdown, JUnit, annotations and card as golden texts, and what must never get through."""

import copy
import functools
import json
import operator
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ggufkit.errors import InputError
from ggufkit.proof.limits import GateConfig, parse_config
from ggufkit.reports import annotations, card, compare_text, diff_text, gate_text, junit, markdown
from ggufkit.reports.reproduce import command, config_toml
from ggufkit.reports.result import load, parse, require_comparable

RESULT_FILE = Path(__file__).parents[1] / "data" / "reports" / "gate.json"
Golden = Callable[[str, str], None]


@pytest.fixture
def result() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RESULT_FILE.read_text())
    return loaded


def test_views_read_as_people_expect(result: dict[str, Any], golden: Golden) -> None:
    golden("reports/gate.txt", gate_text.render(parse(result)) + "\n")
    golden("reports/gate.md", markdown.render(parse(result)))
    golden("reports/gate.xml", junit.render(parse(result)))
    golden("reports/annotations.txt", "\n".join(annotations.render(parse(result))) + "\n")
    golden("reports/compare.txt", compare_text.render(parse(result).comparison) + "\n")
    golden("reports/diff.txt", diff_text.render(parse(result).diff) + "\n")
    golden("reports/card.md", card.render([parse(result)], base_model="org/tiny", license_name="apache-2.0"))


def command_of(result: dict[str, Any]) -> str:
    return command(parse(result))


def with_checks(result: dict[str, Any], outcomes: list[str]) -> dict[str, Any]:
    made = copy.deepcopy(result)
    sample = made["checks"][-1]
    made["checks"] = [sample | {"outcome": outcome, "title": f"check {i}"} for i, outcome in enumerate(outcomes)]
    return made


def test_junit_counts_are_those_of_its_cases(result: dict[str, Any]) -> None:
    suite = ElementTree.fromstring(junit.render(parse(with_checks(result, ["pass", "fail", "fail", "inconclusive"]))))[
        0
    ]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "2", "1")
    cases = suite.findall("testcase")
    assert [case.find("failure") is not None for case in cases] == [False, True, True, False]
    assert [case.find("skipped") is not None for case in cases] == [False, False, False, True]


def test_junit_survives_what_xml_cannot_write(result: dict[str, Any]) -> None:
    result["checks"][0] |= {"outcome": "fail", "message": "a\x00b\x1b[31m \ud800 <&> ]]>", "title": "t\x0b"}
    suite = ElementTree.fromstring(junit.render(parse(result)))[0]
    failure = suite.findall("testcase")[0].find("failure")
    assert failure is not None
    assert failure.text == r"a\x00b\x1b[31m \ud800 <&> ]]>"


def test_annotations_keep_to_ten_of_a_kind(result: dict[str, Any]) -> None:
    lines = annotations.render(parse(with_checks(result, ["fail"] * 14 + ["inconclusive"] * 10 + ["pass"])))
    kinds = [line.split(" ", 1)[0] for line in lines]
    assert kinds.count("::error") == kinds.count("::warning") == 10
    assert "5 more checks: fail" in lines[9]
    passed = with_checks(result, ["pass"]) | {"verdict": "pass"}
    assert [line.split(" ", 1)[0] for line in annotations.render(parse(passed))] == ["::notice"]


def test_annotations_cannot_be_broken_out_of(result: dict[str, Any]) -> None:
    made = with_checks(result, ["fail"])
    made["checks"][0] |= {"title": "a::b,c\n::error ::", "message": "100 %\r\n::set-env name=X::y"}
    (line,) = annotations.render(parse(made))
    assert "\n" not in line and "\r" not in line
    assert line.startswith("::error title=ggufkit gate%3A a%3A%3Ab%2Cc\\n%3A%3Aerror %3A%3A::")
    assert line.endswith("100 %25\\r\\n::set-env name=X::y")


def test_markdown_cannot_be_broken_out_of(result: dict[str, Any]) -> None:
    result["candidate"]["file"] = "a|b`<img src=x>`[l](http://x) @team\n# h"
    shown = markdown.render(parse(result))
    assert not re.search(r"(?<!\\)[<`\[]", shown)
    assert "@team" not in shown
    assert "\n# h" not in shown


def test_markdown_stays_under_what_a_step_summary_holds(result: dict[str, Any]) -> None:
    shown = markdown.render(parse(with_checks(result, ["fail"] * 20_000)))
    assert len(shown.encode()) < 1024 << 10
    assert shown.endswith("… cut: the summary of a step may have 1,024 KiB.\n")


def test_the_config_in_a_card_is_the_one_that_was_used(result: dict[str, Any]) -> None:
    config = GateConfig(alpha=0.01, chunks=7, seed=5, ignore=("type", 'a"b'), limits={"kld_mean": 1e-3, "bpw": 5.0})
    assert parse_config(config_toml(config), "card") == config
    fenced = card.render([parse(result)]).split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(fenced)["limits"] == result["config"]["limits"]


def test_the_command_says_what_differs_from_the_defaults(result: dict[str, Any]) -> None:
    assert command_of(result) == "ggufkit gate Q2_K.gguf --baseline tiny-bf16.gguf --config gate.toml --complete"
    result["comparison"]["text"]["n_chunk"] = 4  # what the last check needed
    assert command_of(result) == "ggufkit gate Q2_K.gguf --baseline tiny-bf16.gguf --config gate.toml"
    without = result | {"checks": [check for check in result["checks"] if check["name"] != "weights"]}
    assert command_of(without).endswith(" --no-weights")
    assert command_of(without | {"diff": None}) == command_of(result)  # a baseline file has no weights
    result["candidate"]["file"] = "my model.gguf"
    result["comparison"]["text"] |= {"name": "wiki.test.raw", "n_ctx": 2048}
    assert command_of(result).endswith("gate 'my model.gguf' --baseline tiny-bf16.gguf --config gate.toml --text wiki.test.raw --ctx 2048")  # fmt: skip  # noqa: E501


def test_a_card_of_several_files(result: dict[str, Any]) -> None:
    """Each has its own chunks and config; the one to run is the smallest that passes."""
    good, large = copy.deepcopy(result), copy.deepcopy(result)
    good["candidate"] |= {"file": "good.gguf", "nbytes": 4_000_000}
    good |= {"verdict": "pass", "config": result["config"] | {"seed": 9}}
    good["comparison"]["text"]["n_chunk"] = 17
    large["candidate"] |= {"file": "large.gguf", "nbytes": 9_000_000}
    require_comparable([parse(result), parse(good), parse(large)])
    shown = card.render([parse(large), parse(good), parse(result)])
    assert "gate good.gguf --baseline tiny-bf16.gguf --config gate-2.toml" in shown
    assert "gate large.gguf --baseline tiny-bf16.gguf --config gate-1.toml" in shown
    assert "with `gate-2.toml`:\n\n```toml\nalpha = 0.05\nchunks = 60\nseed = 9\n" in shown
    assert re.search(r"\| good.gguf \|.*\| 17 \|\n", shown)
    assert "ggufkit run good.gguf" in shown


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"base": {"fingerprint": "0" * 64}}, "original than Q2_K.gguf: tiny-bf16.gguf (000000000000), not"),
        ({"comparison": {"text": {"sha256": "1" * 64}}}, "text than"),
        ({"comparison": {"text": {"n_ctx": 128}}}, "chunk length than Q2_K.gguf: chunks (128), not chunks (512)"),
    ],
)
def test_files_measured_otherwise_do_not_stand_side_by_side(result: dict[str, Any], changes: Any, what: str) -> None:
    def changed(value: Any, change: Any) -> Any:
        return value | {k: changed(value[k], v) for k, v in change.items()} if isinstance(change, dict) else change

    with pytest.raises(InputError, match=re.escape(f"was measured with another {what}")):
        require_comparable([parse(result), parse(changed(result, changes))])


def test_a_result_without_measurements_can_be_shown(result: dict[str, Any]) -> None:
    result |= {"comparison": None, "diff": None}
    made = parse(result)
    for shown in (gate_text.render(made), markdown.render(made), junit.render(made), card.render([made])):
        assert "Q2" in shown


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"{", "is not JSON"),
        (b"[]", "has schema None, wanted ggufkit/gate@1"),
        (b'{"schema": "ggufkit/gate@2"}', "has schema 'ggufkit/gate@2', wanted ggufkit/gate@1"),
        (b'{"schema": "ggufkit/gate@1", "verdict": "good"}', "verdict: invalid enum value 'good'"),
        (b'{"schema": "ggufkit/gate@1", "verdict": "pass"}', "sentence is missing"),
        (b'{"schema": "ggufkit/gate@1", "verdict": 3}', "verdict is a whole number, wanted text"),
    ],
)
def test_other_files_are_refused(content: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=wanted):
        load(path)


def every_path(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values of a result, of lists those of the first two items."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from every_path(item, (*path, key))


@pytest.mark.parametrize("change", ["gone", "text", "null", "empty"])
def test_a_changed_result_is_refused_or_shown(change: str, result: dict[str, Any], tmp_path: Path) -> None:
    """Never a KeyError in a view, whatever is missing or of another type."""
    path, refused = tmp_path / "result.json", 0
    for where in every_path(result):
        made = copy.deepcopy(result)
        *parents, last = where
        holder = functools.reduce(operator.getitem, parents, made)
        if change == "gone":
            del holder[last]
        else:
            holder[last] = {"text": "x", "null": None, "empty": []}[change]
        path.write_text(json.dumps(made))
        try:
            loaded = load(path)
        except InputError as error:
            refused += 1
            assert "was changed or cut" in str(error) or where == ("schema",)
            continue
        for view in (gate_text, markdown, junit):
            view.render(loaded)
        card.render([loaded])
    assert refused > 100


@pytest.mark.parametrize("chats", [True, False])
def test_a_card_suits_the_model(chats: bool, result: dict[str, Any]) -> None:
    result["candidate"] |= {"chats": chats, "license": "apache-2.0", "base_model": "org/base", "file": "My Model.gguf"}
    shown = card.render([parse(result)])
    assert ("It answers questions" in shown, "It continues texts" in shown) == (chats, not chats)
    assert ("llama-cli -m 'My Model.gguf'\n" in shown, "llama-completion -m 'My Model.gguf' -p" in shown) == (
        chats,
        not chats,
    )
    for program in ("ggufkit run", "llama-server -m", "ollama create my-model -f Modelfile", "lms import"):
        assert program in shown
    assert 'base_model: "org/base"\nlicense: "apache-2.0"\n' in shown
    asked = card.render([parse(result)], base_model="org/tiny", license_name="mit")
    assert 'base_model: "org/tiny"\nbase_model_relation: quantized\nlicense: "mit"\n' in asked


def test_figures_of_too_few_chunks_say_so(result: dict[str, Any]) -> None:
    result["comparison"]["figures"]["kld_median"] |= {"se": None, "low": None, "high": None}
    shown = compare_text.render(parse(result).comparison)
    assert "∞" not in shown
    assert re.search(r"KL divergence, median +[\d.]+  too few chunks", shown)


def test_results_are_read_back() -> None:
    assert load(RESULT_FILE).verdict == "fail"
