"""Every mixture against llama.cpp's own choice of types, on the shapes of real models."""

from dataclasses import asdict

import pytest

from ggufkit.recipes.build import choose_types
from ggufkit.recipes.mixtures import MIXTURES
from ggufkit.recipes.quantizable import kept_reason, written_order
from ggufkit.recipes.recipe import named
from tests.oracle import llama_types
from tests.recipes.shapes import SHAPES, model_of


@pytest.mark.parametrize("shape_name", SHAPES)
def test_types_are_llama_cpps(shape_name: str) -> None:
    shape = SHAPES[shape_name]
    model = model_of(shape)
    tensors = written_order(model.tensors)
    fields = asdict(shape)
    desc = {key: fields[key] for key in ("n_embd", "n_ff", "n_layer", "n_head", "n_head_kv", "n_expert")}
    wanted = llama_types(
        {"architecture": shape.arch, **desc}, [(t.name, t.shape) for t in tensors], [mix.ftype for mix in MIXTURES]
    )
    for mix, types in zip(MIXTURES, wanted, strict=True):
        choices = choose_types(tensors, model.hparams, named(mix.name), has_importance=False)
        got = {t.name: c[0].name for t, c in zip(tensors, choices, strict=True) if kept_reason(t) is None}
        assert got == types, f"{shape_name} {mix.name}"
