"""JSON of commands: what is printed has the published form, and the published form is current."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from ggufkit.cli import main
from ggufkit.reports.result import as_dict
from ggufkit.reports.schemas import PREFIX, SCHEMAS, json_schema, name_of, type_of
from scripts.schemas import FOLDER, text_of
from tests.data.lora.convert import write as write_adapter

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "stories260K"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_current(name: str) -> None:
    published = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert published == text_of(name), "run `make schemas`"


def test_nothing_else_is_published() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_names_and_types_belong_together(name: str) -> None:
    assert name_of(type_of(name)) == PREFIX + name
    made = json_schema(name)
    assert made["properties"]["schema"] == {"const": PREFIX + name}
    assert made["required"][0] == "schema"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One real result of each kind, by its name."""
    folder = tmp_path_factory.mktemp("schemas")
    text = folder / "text.txt"
    text.write_text("Once upon a time there was a little girl. She saw a big dog and they went home. " * 60)
    base, cand, imatrix = folder / "base.gguf", folder / "cand.gguf", folder / "i.gguf"
    model, adapter = write_adapter("qwen3, of peft", folder)
    on_text = ("--text", text, "--ctx", 64)
    commands: dict[str, tuple[object, ...]] = {
        "plan": ("plan", MODEL),
        "base": ("quantize", MODEL, "-o", base, "--type", "F16"),
        "quantize": ("quantize", MODEL, "-o", cand, "--type", "Q4_0", "--check", "--text", text),
        "convert-lora": ("convert-lora", adapter, "--base", model, "-o", folder / "adapter.gguf"),
        "calibrate": ("calibrate", base, "-o", imatrix, "--text", text, "--ctx", 64, "--tokens", 256),
        "merge": ("calibrate", "--merge", imatrix, "--merge", imatrix, "-o", folder / "both.gguf"),
        "perplexity": ("perplexity", cand, "--chunks", 1, *on_text),
        "compare": ("compare", base, cand, "--chunks", 4, *on_text),
        "diff": ("diff", base, cand),
        "baseline": ("baseline", base, "-o", folder / "b.baseline", "--chunks", 4, *on_text),
        "gate": ("gate", cand, "--baseline", base, "--chunks", 4, *on_text),
        "run": ("run", cand, "-p", "Once", "-n", 4, "--seed", 1),
        "inspect": ("inspect", cand),
        "doctor": ("doctor",),
    }
    found = {}
    for name, args in commands.items():
        shown = CliRunner().invoke(main, [*map(str, args), "--json"])
        assert shown.exit_code in (0, 3, 4), shown.output
        found[name] = json.loads(shown.stdout)
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_printed_has_the_form(name: str, printed: dict[str, dict[str, Any]]) -> None:
    """Every field is there and of its type, and there is none that the schema does not know."""
    result = printed[name.partition("@")[0]]
    assert result["schema"] == PREFIX + name
    back = msgspec.convert(result, type_of(name), str_keys=True)
    assert as_dict(back) == result
    assert set(result) == set(json_schema(name)["properties"])
