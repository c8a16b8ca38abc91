"""Recipes as values and as TOML: round trip, which rule wins, and one test for each mistake."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.errors import GgufkitError, RecipeError, UsageError
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.recipe import Recipe, RecipeRule, named, parse_recipe, read_recipe
from tests.recipes.shapes import SHAPES, Shape, model_of

MIXTRAL = model_of(SHAPES["mixtral-8x7b"])
# XML 1.0 is not asked for: TOML text is any scalar value
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def types_of(recipe: Recipe) -> dict[str, str]:
    return {t.name: t.qtype.name for t in make_plan(MIXTRAL, recipe).tensors}


def test_last_matching_rule_wins_and_keeps_its_reason() -> None:
    rules = (
        RecipeRule("Q6_K", role="ffn_down", reason="first"),
        RecipeRule("Q3_K", match="blk.*.ffn_down_exps.weight", layers="0-3,31", reason="second"),
        RecipeRule("Q8_0", regex=r"^blk\.31\.ffn_down", reason="third"),
    )
    plan = make_plan(MIXTRAL, Recipe("mine", base="Q4_K_M", rules=rules))
    got = {t.name: (t.qtype.name, t.reason) for t in plan.tensors}
    assert got["blk.0.ffn_down_exps.weight"] == ("Q3_K", "second")
    assert got["blk.4.ffn_down_exps.weight"] == ("Q6_K", "first")
    assert got["blk.31.ffn_down_exps.weight"] == ("Q8_0", "third")
    assert plan.name == "mine"
    assert plan.file_type == 15


def test_rules_do_not_shift_what_the_base_gives_to_others() -> None:
    """llama.cpp's overrides stop its counters, so that later layers change their type; a rule here changes its own."""
    dense = model_of(SHAPES["llama-2-7b"])
    base = {t.name: t.qtype.name for t in make_plan(dense, "Q4_K_M").tensors}
    rule = RecipeRule("Q5_0", match="blk.0.attn_v.weight")
    ruled = {t.name: t.qtype.name for t in make_plan(dense, Recipe("r", base="Q4_K_M", rules=(rule,))).tensors}
    assert {name for name in base if base[name] != ruled[name]} == {"blk.0.attn_v.weight"}


def test_default_gives_one_type_to_every_matrix() -> None:
    types = types_of(Recipe("pure", default="Q4_K"))
    assert set(types.values()) == {"Q4_K", "F32"}
    assert types["output.weight"] == "Q4_K"
    assert types["blk.0.ffn_gate_inp.weight"] == "F32"


@given(name=TEXT.filter(bool), match=TEXT, reason=TEXT)
def test_toml_round_trip(name: str, match: str, reason: str) -> None:
    rules = (RecipeRule("Q6_K", match=match, layers="0-3,31", role="ffn_down", reason=reason),)
    recipe = Recipe(name, base="Q4_K_M", rules=rules)
    assert parse_recipe(recipe.to_toml(), "recipe.toml") == recipe


def test_read_recipe_takes_its_name_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "experts-low.toml"
    path.write_text('default = "q4_K"\n[[rules]]\nrole = "output"\ntype = "q6_K"\n')
    recipe = read_recipe(path)
    assert recipe.name == "experts-low"
    assert types_of(recipe)["output.weight"] == "Q6_K"


def test_names_of_mixtures_are_known_in_any_case_and_by_their_short_form() -> None:
    assert named("q4_k_m") == named("Q4_K") == Recipe("Q4_K_M", base="Q4_K_M")
    with pytest.raises(UsageError, match=r"unknown type 'Q4_Q'. Known: F32, F16, .*Q4_K_M"):
        named("Q4_Q")


RULE = "[[rules]]\n"
MISTAKES = {
    'base = "Q4_K_M"\nrules = = 1': r"r.toml is not TOML: .*line 2",
    'base = "Q4_K_M"\ncolour = "red"': r"r.toml: unknown key 'colour'. Known: name, base, default",
    "base = 4": r"r.toml: base is 4, wanted text in quotes",
    'name = "x"': r"r.toml: recipe 'x' needs one of base .* and default",
    'base = "Q4_K_M"\ndefault = "Q4_K"': r"needs one of base .* and default",
    'base = "Q9"': r"r.toml: unknown type 'Q9'. Known: F32, .*Q4_K_M",
    'default = "Q4_K_M"': r"r.toml: recipe 'r', default: unknown type 'Q4_K_M'. Known: F32, .*Q4_K",
    'base = "Q4_K_M"\n[rules]\ntype = "Q4_K"': r"r.toml: rules are tables. Begin each with",
    f'base = "Q4_K_M"\n{RULE}role = "output"': r"r.toml, rule 1 has no type",
    f'base = "Q4_K_M"\n{RULE}tpye = "Q4_K"': r"r.toml, rule 1: unknown key 'tpye'. Known: type, match, regex",
    f'base = "Q4_K_M"\n{RULE}type = "Q4_K"': r"matches everything. Give it match, regex, layers or role",
    f'base = "Q4_K_M"\n{RULE}type = "Q4_X"\nrole = "output"': r"unknown type 'Q4_X'. Known: F32",
    f'base = "Q4_K_M"\n{RULE}type = "Q4_K"\nrole = "experts"': r"unknown role 'experts'. Known: token_embd",
    f'base = "Q4_K_M"\n{RULE}type = "Q4_K"\nlayers = "3-1"': r"layers = '3-1' is not a list of layers",
    f'base = "Q4_K_M"\n{RULE}type = "Q4_K"\nregex = "("': r"the regular expression does not compile",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_the_text_are_named(text: str) -> None:
    with pytest.raises(RecipeError, match=MISTAKES[text]):
        parse_recipe(text, "r.toml")


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none.toml: No such file"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="UTF-16, not UTF-8"):
        read_recipe(tmp_path / "bin.toml")


ODD = model_of(Shape("llama", 4, 2080, 1120, 20, 4, 32))
MISFITS: list[tuple[RecipeRule, str]] = [
    (RecipeRule("Q6_K", match="blk.*.ffn_dwon.weight"), r"matches no tensor. Names look like output.weight, token"),
    (RecipeRule("Q6_K", match="blk.*.attn_norm.weight"), r"matches only tensors that are never quantized, blk.0.attn"),
    (RecipeRule("Q6_K", role="ffn_down"), r"blk.0.ffn_down.weight has 1120 columns; Q6_K needs .* 256. Use Q8_0"),
    (RecipeRule("IQ2_XXS", role="attn_q"), r"blk.0.attn_q.weight has 2080 columns"),
]


@pytest.mark.parametrize(("rule", "message"), MISFITS, ids=lambda value: str(value)[:40])
def test_rules_that_do_not_fit_the_model_are_errors(rule: RecipeRule, message: str) -> None:
    with pytest.raises(GgufkitError, match=message):
        make_plan(ODD, Recipe("mine", base="Q8_0", rules=(rule,)))


def test_types_that_need_importance_say_so() -> None:
    with pytest.raises(UsageError, match=r"IQ2_XS needs importance for blk.0.*and \d+ more. Pass --imatrix FILE"):
        make_plan(MIXTRAL, "IQ2_XS")
    names = {t.name for t in MIXTRAL.tensors if t.name != "blk.3.ffn_up_exps.weight"}
    with pytest.raises(UsageError, match=r"for blk.3.ffn_up_exps.weight \(IQ2_XS\). The importance file has no entry"):
        make_plan(MIXTRAL, "IQ2_XS", importance=names)
    assert make_plan(MIXTRAL, "IQ2_XS", importance={t.name for t in MIXTRAL.tensors}).file_type == 20


def test_a_recipe_saved_with_a_byte_order_mark_and_cr_lf_reads(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(
        b'\xef\xbb\xbfbase = "Q4_K_M"\r\n\r\n[[rules]]\r\nrole = "ffn_down"\r\ntype = "Q8_0"\r\n'
    )
    assert read_recipe(tmp_path / "r.toml").rules[0].type == "Q8_0"
