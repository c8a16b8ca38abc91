"""Mixtures give new families the types of llama.cpp, but for blocks that guess further tokens."""

import pytest

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.mixtures import mixture
from ggufkit.workflows.quantize import quantize
from tests.architectures import tiny
from tests.oracle import llama_quantize

NAMES = [
    "gemma-3-1b-it", "deepseek-v3", "qwen3.5-35b-a3b", "gpt-oss-20b", "glm-4.5-air", "minimax-m2",
    "command-r7b-12-2024",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_types_are_llama_cpps(name, tmp_path):
    settings = QuantizeSettings(source=tiny.build(name, tmp_path), output=tmp_path / "base.gguf", recipe="BF16")
    quantize(settings)
    with settings.open() as model:
        for type_ in ("Q4_K_M", "Q3_K_M"):
            llama_quantize(settings.output, tmp_path / "theirs.gguf", mixture(type_).ftype)
            theirs = {t.name: t.dtype for t in GgufFile.open(tmp_path / "theirs.gguf").tensors}
            ours = {t.name: t.qtype.name for t in make_plan(model, type_).tensors}
            first_mtp = model.hparams.n_layer - model.hparams.n_mtp
            pinned = {key for key in ours if key.startswith("blk.") and int(key.split(".")[1]) >= first_mtp}
            assert {key for key in ours | theirs if ours.get(key) != theirs.get(key)} <= pinned
