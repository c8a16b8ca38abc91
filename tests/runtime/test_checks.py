"""Files that would end llama.cpp's process are refused by name, before the library sees them."""

import math
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType

from ggufkit.errors import GgufError, InputError
from ggufkit.formats.model import KV
from ggufkit.runtime.checks import problems
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device
from tests.formats.build import ARRAY, BOOL, F32, STRING, U32
from tests.runtime.edited import Edit, as_type, both, edited, first_tokens, items, key, more

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"

FATAL: list[tuple[str, str, Edit]] = [
    ("s", r"llama\.block_count is 0, wanted 1 to 512", key("llama.block_count", U32, 0)),
    ("s", r"llama\.block_count is 513", key("llama.block_count", U32, 513)),
    ("s", r"nextn_predict_layers is 99, wanted at most the 5", key("llama.nextn_predict_layers", U32, 99)),
    ("s", r"expert_used_count is 0 or missing, wanted 1 to expert_count, 2", key("llama.expert_count", U32, 2)),
    ("s", r"expert_used_count is 2, wanted at most expert_count, 0", key("llama.expert_used_count", U32, 2)),
    ("s", r"expert_count is 2000, wanted at most 1024", key("llama.expert_count", U32, 2000)),
    ("m", r"expert_used_count is 9, wanted at most expert_count, 8", key("llama.expert_used_count", U32, 9)),
    ("m", r"expert_used_count is 9", key("llama.expert_used_count", ARRAY, (U32, [2, 2, 9, 2]))),
    ("m", r"expert_used_count is 0 in layer 2", key("llama.expert_used_count", ARRAY, (U32, [2, 2, 0, 2]))),
    ("s", r"expert_group_count is 1, wanted less than expert_count, 0", key("llama.expert_group_count", U32, 1)),
    ("m", r"expert_group_count is 3, wanted a divisor of", key("llama.expert_group_count", U32, 3)),
    ("m", r"expert_group_used_count is 0, wanted 1 to 3", key("llama.expert_group_count", U32, 4)),
    ("s", r"layer_norm_rms_epsilon is nan", key("llama.attention.layer_norm_rms_epsilon", F32, math.nan)),
    ("s", r"layer_norm_rms_epsilon is -1\.0", key("llama.attention.layer_norm_rms_epsilon", F32, -1.0)),
    ("s", r"rope\.scaling\.type is bogus, wanted one of none, l", key("llama.rope.scaling.type", STRING, "bogus")),
    ("s", r"rope\.scaling\.type is .*x1b\[2J", key("llama.rope.scaling.type", STRING, "\x1b[2J")),
    ("s", r"head_count_kv is 0 in layer 1", key("llama.attention.head_count_kv", ARRAY, (U32, [4, 0, 0, 0, 0]))),
    ("s", r"rope\.dimension_count is 7, wanted an even number", key("llama.rope.dimension_count", U32, 7)),
    ("s", r"rope\.dimension_count is 64, wanted at most the 8", key("llama.rope.dimension_count", U32, 64)),
    ("s", r"rope\.dimension_count is 0, wanted 2 or more", key("llama.rope.dimension_count", U32, 0)),
    ("s", r"rope\.dimension_count_swa is 0, wanted 2", key("llama.rope.dimension_count_swa", U32, 0)),
    ("s", r"rope\.dimension_count_swa is 64, wanted at most the 8", key("llama.rope.dimension_count_swa", U32, 64)),
    ("s", r"layer_norm_rms_epsilon is inf", key("llama.attention.layer_norm_rms_epsilon", F32, math.inf)),
    ("s", r"rope\.freq_base is 0\.0, wanted a number above 0", key("llama.rope.freq_base", F32, 0.0)),
    ("s", r"rope\.freq_base is -1\.0, wanted a number above 0", key("llama.rope.freq_base", F32, -1.0)),
    ("s", r"rope\.freq_base is nan, wanted a finite number", key("llama.rope.freq_base", F32, math.nan)),
    ("s", r"rope\.freq_base is inf, wanted a finite number", key("llama.rope.freq_base", F32, math.inf)),
    ("s", r"rope\.freq_base_swa is 0\.0, wanted a number above", key("llama.rope.freq_base_swa", F32, 0.0)),
    ("s", r"rope\.scaling\.factor is nan, wanted a finite number", key("llama.rope.scaling.factor", F32, math.nan)),
    ("s", r"rope\.scaling\.factor is -2\.0, wanted a number from 0", key("llama.rope.scaling.factor", F32, -2.0)),
    ("s", r"rope\.scale_linear is -2\.0, wanted a number from 0", key("llama.rope.scale_linear", F32, -2.0)),
    ("s", r"rope\.scaling\.attn_factor is nan", key("llama.rope.scaling.attn_factor", F32, math.nan)),
    ("s", r"attention\.scale is inf", key("llama.attention.scale", F32, math.inf)),
    ("s", r"output_norm\.weight is F16, wanted F32", as_type("output_norm.weight", "F16")),
    ("s", r"blk\.0\.attn_norm\.weight is BF16", as_type("blk.0.attn_norm.weight", "BF16")),
    ("s", r"blk\.3\.ffn_norm\.weight is Q8_0", as_type("blk.3.ffn_norm.weight", "Q8_0")),
    ("s", r"blk\.0\.attn_q\.weight is I8, wanted F32, F16, BF16 or a quantized", as_type("blk.0.attn_q.weight", "I8")),
    ("s", r"token_embd\.weight is I32", as_type("token_embd.weight", "I32")),
    ("m", r"ffn_down_exps\.weight is F64", as_type("blk.1.ffn_down_exps.weight", "F64")),
    ("m", r"ffn_gate_inp\.weight is I32", as_type("blk.0.ffn_gate_inp.weight", "I32")),
    ("s", r"rope_freqs\.weight is F16, wanted F32", more("rope_freqs.weight", [4], "F16")),
    ("s", r"attn_q\.bias is F16", more("blk.0.attn_q.bias", [64], "F16")),
    ("s", r"attn_q\.scale is F16", more("blk.0.attn_q.scale", [1], "F16")),
    ("s", r"tokens 0 and 1 are both 'a'", items(TOKENS, lambda i, text: "a")),
    ("s", r"tokens 3 and 4 are both '<0xZZ>'", items(TOKENS, lambda i, text: "<0xZZ>" if 3 <= i < 259 else text)),
    ("s", r"tokens 7 and 500 are both", items(TOKENS, {7: "", 500: "[EMPTY_7]"}.get)),
    ("s", r"tokenizer\.ggml\.model is bert, which has no byte tokens", key("tokenizer.ggml.model", STRING, "bert")),
    ("s", r"add_eos_token asks for a token", both(first_tokens(2), key("tokenizer.ggml.add_eos_token", BOOL, True))),
    ("s", r"add_bos_token asks for a token that", first_tokens(1)),
]  # fmt: skip


@pytest.mark.parametrize(("base", "said", "edit"), FATAL, ids=[said for _, said, _ in FATAL])
def test_what_would_end_the_library_is_named(
    base: str, said: str, edit: Edit, stories: Path, tiny_bf16: Path, tmp_path: Path
) -> None:
    path = edited({"s": stories, "m": tiny_bf16}[base], tmp_path / "model.gguf", edit)
    with pytest.raises(GgufError, match=said) as caught:
        Engine.open(path, n_ctx=64, threads=1, device=Device.CPU)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "name", "refused"),
    [
        ("gemma2", "attn_logit_softcapping", True),
        ("gemma2", "final_logit_softcapping", True),
        ("gemma3", "final_logit_softcapping", False),
        ("granitemoe", "logit_scale", True),
        ("cohere2", "logit_scale", False),
    ],
)
def test_a_divisor_of_0_is_named_where_the_graph_divides_by_it(arch: str, name: str, refused: bool) -> None:
    entries = [KV("general.architecture", GGUFValueType.STRING, arch), KV(f"{arch}.{name}", GGUFValueType.FLOAT32, 0.0)]
    wanted = [f"{arch}.{name} is 0.0, wanted another number than 0"] if refused else []
    assert list(problems({kv.key: kv for kv in entries}, ())) == wanted


@pytest.mark.parametrize(
    "edit",
    [
        key("llama.rope.scaling.type", STRING, "yarn"),
        key("llama.rope.scaling.factor", F32, 0.0),
        key("other.rope.freq_base", F32, 0.0),
        key("llama.attention.head_count_kv", ARRAY, (U32, [4, 4, 4, 4, 4])),
        as_type("blk.0.attn_q.weight", "Q4_0"),
        items(TOKENS, lambda i, text: "" if i == 300 else text),
    ],
    ids=["yarn", "no factor", "another architecture", "heads by layer", "another type", "an empty token"],
)
def test_what_the_library_reads_is_not_refused(edit: Edit, stories: Path, tmp_path: Path) -> None:
    path = edited(stories, tmp_path / "model.gguf", edit)
    with Engine.open(path, n_ctx=64, threads=1, device=Device.CPU) as engine:
        engine.decode(np.arange(8, dtype=np.int32), 0)


def test_a_file_without_a_tokenizer_loads_and_reads_no_text(stories: Path, tmp_path: Path) -> None:
    edits = (key("tokenizer.ggml.model", STRING, "none"), key("llama.vocab_size", U32, 512))
    path = edited(stories, tmp_path / "model.gguf", *edits)
    with Engine.open(path, n_ctx=64, threads=1, device=Device.CPU) as engine:
        engine.decode(np.arange(8, dtype=np.int32), 0)
        for use in (lambda: engine.tokenize("a"), lambda: engine.vocab.piece(3), lambda: engine.vocab.control_texts):
            with pytest.raises(InputError, match="has no tokenizer"):
                use()


def test_a_character_that_cannot_be_spelled_is_named(stories: Path, tmp_path: Path) -> None:
    """SentencePiece without byte tokens: what it knows is read, what it does not would throw across C."""
    path = edited(
        stories,
        tmp_path / "model.gguf",
        items(TOKENS, lambda i, text: f"no byte {i}" if 3 <= i < 259 else text),
        items(TYPES, lambda i, kind: 1 if 3 <= i < 259 else kind),
    )
    with Engine.open(path, n_ctx=64, threads=1, device=Device.CPU) as engine:
        assert len(engine.tokenize("Once upon a time"))
        with pytest.raises(InputError, match="no token for '日' nor for its bytes"):
            engine.tokenize("Once 日 upon")
