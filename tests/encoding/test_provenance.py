"""What a file says of where it comes from has no local path; what decides the bytes decides the identity."""

import dataclasses
from pathlib import Path

import pytest

import quant
from ggufkit.encoding import provenance as module
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.provenance import identity, provenance
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.recipes.recipe import parse_recipe
from tests.recipes.shapes import Shape, model_of

MODEL = dataclasses.replace(model_of(Shape("llama", 1, 256, 256, 8, 2, 300)), source={"sha256": "ab", "commit": "cd"})
SETTINGS = QuantizeSettings(source=Path("/home/somebody/model"), output=Path("/home/somebody/out.gguf"))


def test_the_source_and_the_encoder_are_named_without_a_path() -> None:
    rows = {kv.key: kv.value for kv in provenance(SETTINGS, MODEL, PlainEncoder(quant.Encoder.GGML))}
    assert rows["ggufkit.encoder"] == "ggml" and rows["ggufkit.version"]
    assert (rows["ggufkit.source.sha256"], rows["ggufkit.source.commit"]) == ("ab", "cd")
    assert "somebody" not in str(rows)


def test_a_recipe_stands_there_whole() -> None:
    recipe = parse_recipe('default = "Q4_K"\n', "mine.toml")
    rows = {kv.key: kv.value for kv in provenance(dataclasses.replace(SETTINGS, recipe=recipe), MODEL, PlainEncoder())}
    assert parse_recipe(rows["ggufkit.recipe"], "again.toml").to_toml() == recipe.to_toml()


def test_the_identity_follows_what_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(settings: QuantizeSettings = SETTINGS, source: str = "ab", header: bytes = b"header",
           encoder: PlainEncoder = PlainEncoder()) -> str:  # fmt: skip  # noqa: B008
        return identity(settings, dataclasses.replace(MODEL, source={"sha256": source}), header, encoder)

    same = dataclasses.replace(SETTINGS, output=Path("elsewhere.gguf"), threads=7, max_memory=1, force=True)
    base = of()
    assert base == of(same)
    others = [of(source="xy"), of(header=b"other"), of(encoder=PlainEncoder(quant.Encoder.GGML)),
              of(dataclasses.replace(SETTINGS, allow_nonfinite=True))]  # fmt: skip
    monkeypatch.setattr(module, "code_digest", lambda: "other code")
    assert len({base, *others, of()}) == 6
