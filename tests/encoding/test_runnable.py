"""No file is made that llama.cpp would end with, whatever its source."""

import dataclasses
from pathlib import Path

import gguf
import pytest

from ggufkit.architectures.source import open_source
from ggufkit.encoding.encoder import plain_encoder
from ggufkit.encoding.job import prepare
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import InputError
from ggufkit.formats.model import KV

MODELS = Path(__file__).parents[2] / "models"
U32 = gguf.GGUFValueType.UINT32
CASES = [
    ("stories260K", "tokenizer.ggml.tokens", lambda tokens: ["</s>", *list(tokens)[1:]], "</s>"),
    ("stories260K", "llama.attention.head_count_kv", lambda n: 3, "attention.head_count_kv is 3"),
    ("tiny-mixtral", "llama.expert_used_count", lambda n: 9, "expert_used_count is 9, wanted at most expert_count, 8"),
    ("tiny-mixtral", "llama.expert_used_count", lambda n: 0, "expert_used_count is 0"),
]


@pytest.mark.parametrize(("source", "key", "change", "wanted"), CASES)
def test_what_ends_llama_cpp_is_refused_before_anything_is_written(source, key, change, wanted, tmp_path):
    settings = QuantizeSettings(source=MODELS / source, output=tmp_path / "o.gguf", recipe="Q8_0", threads=1)
    with open_source(settings.source) as model:
        prepare(settings, model, plain_encoder(settings, model))
        entries = tuple(
            KV(kv.key, kv.type, change(kv.value), kv.item_type) if kv.key == key else kv for kv in model.metadata
        )
        broken = dataclasses.replace(model, metadata=entries)
        with pytest.raises(InputError, match=wanted):
            prepare(settings, broken, plain_encoder(settings, broken))
