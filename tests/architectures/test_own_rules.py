"""What one family alone has: entries that config.json decides, and what llama.cpp's graph takes for granted."""

import numpy as np
import pytest

from ggufkit.architectures import convert, own_rules
from ggufkit.architectures.config import Config
from ggufkit.architectures.families.gemma3n import gemma3n_parameters
from ggufkit.architectures.gemma4 import gemma4_parameters
from ggufkit.errors import CheckpointError, TokenizerError
from ggufkit.formats.checkpoint import Checkpoint
from tests.architectures import tiny
from tests.architectures.test_bad_input import build, refused

LLAMA4, GEMMA4, KIMI = "llama-4-scout-17b-16e", "gemma-4-e2b-it", "kimi-k2-instruct"


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("gemma-3n-e2b-it", {"num_kv_shared_layers": 1}, "num_kv_shared_layers is 1, where llama.cpp computes"),
        ("gemma-3n-e2b-it", {"activation_sparsity_pattern": [0.95, 0.0]}, "activation_sparsity_pattern is .0.95, 0.0"),
        ("gemma-3n-e2b-it", {"laurel_rank": 32}, "laurel_rank"),
        ("gemma-3n-e2b-it", {"intermediate_size": [2048, 1024]}, "intermediate_size is .2048, 1024"),
        (LLAMA4, {"use_qk_norm": False}, "use_qk_norm is False in a model of 4 experts"),
        (LLAMA4, {"attention_chunk_size": 4096}, "attention_chunk_size is 4096"),
        (LLAMA4, {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers"),
        ("exaone-4.0-1.2b", {"sliding_window": 4096}, "sliding_window is 4096 in a model of 2 layers"),
        ("ernie-4.5-21b-a3b-pt", {"moe_layer_end_index": 0}, "moe_layer_end_index is 0"),
        ("ernie-4.5-21b-a3b-pt", {"moe_layer_interval": 2}, "moe_layer_interval is 2"),
        ("granite-4.0-h-1b", {"position_embedding_type": "rope"}, "position_embedding_type is 'rope'"),
        ("granite-4.0-micro", {"position_embedding_type": "nope"}, "position_embedding_type is 'nope'"),
        ("nemotron-nano-9b-v2", {"hybrid_override_pattern": "M-*"}, "names 3 layers, wanted 4 of M"),
        ("nemotron-nano-9b-v2", {"hybrid_override_pattern": "M-*?"}, "names 4 layers, wanted 4 of M"),
        ("falcon-h1-0.5b-instruct", {"ssm_multipliers": [1.0]}, "ssm_multipliers is .*wanted a list of numbers"),
        ("falcon-h1-0.5b-instruct", {"key_multiplier": "x"}, "key_multiplier is 'x'"),
        ("falcon-h1-0.5b-instruct", {"tie_word_embeddings": True}, "tied embeddings are scaled by 5.6.* and 0.039"),
        ("nemotron-nano-9b-v2", {"time_step_limit": [0.001, 0.1]}, "time_step_limit is"),
        ("hunyuan-4b-instruct", {"use_qk_norm": False}, "use_qk_norm is False"),
        ("lfm2-8b-a1b", {"num_dense_layers": -1}, "num_dense_layers is -1"),
    ],
)
def test_another_model_is_refused_by_name(name, config, message, tmp_path):
    refused(build(name, tmp_path, config=config), message)


@pytest.mark.parametrize("shared", [1, 3])
def test_keys_are_lent_by_the_two_layers_before_alone(shared, tmp_path):
    text = tiny.load_case(GEMMA4)["config"]["text_config"] | {"num_kv_shared_layers": shared}
    with pytest.raises(CheckpointError, match=f"num_kv_shared_layers is {shared}"):
        list(gemma4_parameters(Config(tmp_path, text, {}), "gemma4"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size_per_layer_input": 64}, "hidden_size_per_layer_input is 64"),
        ({"layer_types": ["full_attention"] * 21}, "layer_types is .'full_attention', 'full_attention'"),
    ],
)
def test_a_gemma_3n_of_other_numbers_than_the_graphs(config, message, tmp_path):
    text = tiny.load_case("gemma-3n-e2b-it")["config"] | {"num_hidden_layers": 21, "num_kv_shared_layers": 1}
    text |= {"activation_sparsity_pattern": None, "layer_types": None}
    assert len(list(gemma3n_parameters(Config(tmp_path, text, {}), "gemma3n"))) == 6
    with pytest.raises(CheckpointError, match=message):
        list(gemma3n_parameters(Config(tmp_path, text | config, {}), "gemma3n"))


def test_transformers_5_writes_gemma_4s_layers_one_by_one(tmp_path):
    """The same file whether the layers that see all are described once or one by one."""
    name = "gemma-4-31b-it"
    text = tiny.load_case(name)["config"]["text_config"]
    own = {key: value for key, value in text.items() if key not in ("global_head_dim", "num_global_key_value_heads")}
    own["per_layer_config"] = {"1": {"head_dim": 32, "num_key_value_heads": 1}}
    usual = convert(Checkpoint.open(tiny.build(name, tmp_path / "a")))
    spelled = convert(build(name, tmp_path / "b", config={"text_config": own}))
    assert spelled.metadata == usual.metadata


def test_dots_names_the_method_instead_of_the_function(tmp_path):
    model = convert(build("dots.llm1.inst", tmp_path, config={"scoring_func": "noaux_tc"}))
    assert model.kv("dots1.expert_gating_func") == 2


@pytest.mark.parametrize(
    "pattern", [{"sliding_window_pattern": "LLLG"}, {"sliding_window_pattern": 4}, {"layer_types": 4}]
)
def test_exaones_windows_in_every_spelling(pattern, tmp_path):
    wanted = [(i + 1) % 4 != 0 for i in range(64)]
    if "layer_types" in pattern:
        pattern = {"layer_types": ["sliding_attention" if each else "full_attention" for each in wanted]}
    config = Config(tmp_path, {"num_hidden_layers": 64, "sliding_window": 4096, **pattern}, {})
    window, flags = own_rules.exaone4_window(config, "exaone4")
    assert (window.value, list(flags.value)) == (4096, wanted)


def test_hunyuan_ends_where_its_makers_say(tmp_path):
    case = tiny.load_case("hunyuan-4b-instruct")
    case["files"]["generation_config.json"] = {"eos_token_id": [642, 641]}
    tiny.write_files(case, tmp_path / "a")
    tiny.write_weights(case["source"], case["dtype"], tmp_path / "a")
    model = convert(Checkpoint.open(tmp_path / "a"))
    assert (model.kv("tokenizer.ggml.eos_token_id"), model.kv("tokenizer.ggml.eot_token_id")) == (641, 642)


def test_a_layer_that_only_guesses_is_named(tmp_path):
    def guess(tensors):
        tensors["mtp.norm.weight"] = ([64], tiny.encode(np.ones(64, dtype=np.float32), "BF16"))

    case = tiny.load_case("nemotron-3-nano-30b-a3b")
    tiny.write_files(case, tmp_path / "a")
    tiny.write_weights(case["source"] | {"mtp.norm.weight": [64]}, case["dtype"], tmp_path / "a", change=guess)
    dropped = convert(Checkpoint.open(tmp_path / "a")).dropped
    assert "guesses further tokens" in dropped["mtp.norm.weight"]


def test_rows_of_a_slab_have_their_own_factors(tmp_path):
    """Falcon-H1 scales runs of rows: a slab of the middle is what lies there in the whole."""
    model = convert(Checkpoint.open(tiny.build("falcon-h1-0.5b-instruct", tmp_path)))
    tensor = next(t for t in model.tensors if t.name == "blk.0.ssm_in.weight")
    whole = tensor.rows(0, 0, tensor.n_rows)
    assert np.array_equal(np.concatenate([tensor.rows(0, 0, 90), tensor.rows(0, 90, tensor.n_rows)]), whole)


def test_kimi_under_its_own_model_type_and_inside_a_model_that_sees(tmp_path):
    """K2 calls itself kimi_k2; K2.5 keeps the language model in text_config and under language_model."""
    case = tiny.load_case(KIMI)
    usual = convert(Checkpoint.open(tiny.build(KIMI, tmp_path / "a")))
    own = convert(build(KIMI, tmp_path / "b", config={"model_type": "kimi_k2"}))
    inner = case["config"] | {"model_type": "kimi_k2"}
    outer = case | {"config": {"architectures": ["KimiK25ForConditionalGeneration"], "text_config": inner}}
    tiny.write_files(outer, tmp_path / KIMI)
    source = {f"language_model.{name}": shape for name, shape in case["source"].items()}
    tiny.write_weights(source | {"mm_projector.proj.0.weight": [8, 8]}, case["dtype"], tmp_path / KIMI)
    seeing = convert(Checkpoint.open(tmp_path / KIMI))
    assert usual.metadata == own.metadata == seeing.metadata
    assert [t.name for t in seeing.tensors] == [t.name for t in usual.tensors]
    assert list(seeing.dropped) == ["mm_projector.proj.0.weight"]


MORE = [f"{'QUFB' * (2 + i)} {640 + i}" for i in range(300)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "line 1 is .*wanted a token in base64 and rank 0"),
        (lambda lines: [*lines[:7], lines[3], *lines[8:]], "line 8"),
        (lambda lines: [*lines[:7], "é 7", *lines[8:]], "line 8"),
        (lambda lines: [*lines[:7], "7", *lines[8:]], "line 8"),
        (lambda lines: lines[:200], "lacks byte"),
        (lambda lines: [*lines, *MORE], "940 tokens, the model has"),
    ],
)
def test_ranks_that_are_none(change, message, tmp_path):
    folder = tiny.build(KIMI, tmp_path)
    lines = (folder / "tiktoken.model").read_text().split("\n")[:-1]
    (folder / "tiktoken.model").write_text("\n".join(change(lines)), encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        convert(Checkpoint.open(folder))


def test_words_of_older_configs(tmp_path):
    """Nemotron-H's attention_head_dim and a limit without an end; LFM2's numbers of the layers of attention."""
    usual = convert(Checkpoint.open(tiny.build("nemotron-nano-9b-v2", tmp_path / "a")))
    older = {"head_dim": None, "attention_head_dim": 16, "time_step_limit": [0.0, float("inf")]}
    assert convert(build("nemotron-nano-9b-v2", tmp_path / "b", config=older)).metadata == usual.metadata
    usual = convert(Checkpoint.open(tiny.build("lfm2-1.2b", tmp_path / "a")))
    older = {"layer_types": None, "full_attn_idxs": [1]}
    assert convert(build("lfm2-1.2b", tmp_path / "b", config=older)).metadata == usual.metadata
