"""The documents keep up with the program: commands, families, options and examples."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ggufkit.architectures.families import FAMILIES
from ggufkit.cli import COMMANDS, LazyGroup, main
from ggufkit.recipes.mixtures import MIXTURES
from ggufkit.recipes.recipe import parse_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme_and_explains_itself(name: str) -> None:
    assert f"`ggufkit {name}" in README
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 5


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    assert isinstance(main, LazyGroup)
    command = main.get_command(None, name)
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.title)
def test_every_family_is_in_the_readme(family: object) -> None:
    assert f"| {family.title} |" in README
    assert all(f"`{name}`" in README for name in family.classes)


@pytest.mark.parametrize("name", [row.name for row in MIXTURES])
def test_every_type_is_in_the_readme(name: str) -> None:
    assert re.search(rf"\b{name}\b", README)


def test_the_recipe_in_the_readme_is_one() -> None:
    text = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert text
    recipe = parse_recipe(text[1], "README.md")
    assert recipe.base == "Q4_K_M"
    assert len(recipe.rules) == 1


@pytest.mark.parametrize("target", re.findall(r"(?:`|\$ )make ([a-z-]+)", README))
def test_make_targets_in_the_readme_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", re.findall(r"`((?:docs|models|benchmarks|quant|ggufkit)/[\w/.-]+)`", README))
def test_paths_in_the_readme_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_tests_that_hold_the_rows_of_robustness_exist() -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", (ROOT / "docs" / "robustness.md").read_text()))
    assert named and [name for name in sorted(named) if not (ROOT / "tests" / name).exists()] == []
