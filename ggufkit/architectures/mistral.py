"""Mistral's own files, consolidated.safetensors and params.json, told in the words of transformers.

They are the same model under other names, with one difference: rows of queries and keys lie in the order in which
llama.cpp turns them already. Source: llama.cpp's conversion/mistral.py; transformers' convert_mistral_weights_to_hf.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gguf import GGUFValueType, Keys

from ggufkit.architectures.arithmetic import ANY
from ggufkit.architectures.config import Config
from ggufkit.architectures.family import Family
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import PARAMS, Checkpoint
from ggufkit.formats.model import KV
from ggufkit.tokenizer import VocabKind

SIGN = "layers.0.attention.wq.weight"  # a name that no other checkpoint has
N_CTX = 32768  # of the models whose params.json is silent
NAMES = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "hidden_dim":
    "intermediate_size", "n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps", "head_dim": "head_dim",
    "vocab_size": "vocab_size", "rope_theta": "rope_theta", "tied_embeddings": "tie_word_embeddings",
    "sliding_window": "sliding_window", "activation": "hidden_act",
}  # fmt: skip
_CLASSES = {"mistral": "MistralForCausalLM", "ministral3": "Ministral3ForCausalLM"}
_REQUIRED = ("dim", "n_layers", "n_heads", "hidden_dim", "norm_eps", "vocab_size")
_OTHER_SENSES = ("vision_encoder", "multimodal", "audio_encoder")
_KNOWN = {*NAMES, *_OTHER_SENSES, "max_position_embeddings", "max_seq_len", "model_max_length", "yarn",
          "llama_4_scaling", "quantization", "model_type", "use_biases", "causal", "rope_scaling"}  # fmt: skip
RENAMES = {
    r"^layers\.": "model.layers.",
    r"^tok_embeddings\.": "model.embed_tokens.",
    r"^norm\.": "model.norm.",
    r"^output\.": "lm_head.",
    r"\.attention\.w([qkvo])\.": r".self_attn.\1_proj.",
    r"\.attention_norm\.": ".input_layernorm.",
    r"\.ffn_norm\.": ".post_attention_layernorm.",
    r"\.feed_forward\.w1\.": ".mlp.gate_proj.",
    r"\.feed_forward\.w2\.": ".mlp.down_proj.",
    r"\.feed_forward\.w3\.": ".mlp.up_proj.",
    r"^(vision_encoder|vision_language_adapter|pre_mm_projector_norm|patch_merger|mm_whisper_embeddings)\.":
        "vision_model.",
}  # fmt: skip


def is_own(checkpoint: Checkpoint) -> bool:
    """Whether the weights are Mistral's own files, whatever lies beside them."""
    return SIGN in checkpoint.tensors or checkpoint.config_name == PARAMS


def told(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with params.json as transformers' config.json would say it; a config.json stays what it is."""
    if checkpoint.config_name != PARAMS:
        return checkpoint
    params = checkpoint.config
    path = checkpoint.path / PARAMS
    if lacking := [name for name in _REQUIRED if params.get(name) is None]:
        raise CheckpointError(f"{path} lacks {', '.join(lacking)}. Fetch the file again, or config.json beside it.")
    if params.get("moe") is not None:
        raise CheckpointError(
            f"{path}: models with experts are not read from Mistral's own files. Fetch config.json and "
            "the files that it belongs to from the same page."
        )
    for name in ("use_biases", "rope_scaling"):
        if params.get(name):
            raise CheckpointError(f"{path}: {name} is set, which llama.cpp's llama graph does not compute here.")
    config: dict[str, Any] = {NAMES[key]: value for key, value in params.items() if key in NAMES and value is not None}
    kind = "ministral3" if params.get("llama_4_scaling") is not None else "mistral"
    config |= {"architectures": [_CLASSES[kind]], "model_type": kind}
    config |= {"max_position_embeddings": _n_ctx(checkpoint, params)}
    if (yarn := params.get("yarn")) is not None:
        config["rope_parameters"] = _rope(params, yarn, path)
    if unknown := sorted(params.keys() - _KNOWN):
        checkpoint.notes.append(f"{PARAMS}: not known and not used: {', '.join(unknown[:5])}")
    return replace(checkpoint, config=config)


def own(family: Family) -> Family:
    """The family as Mistral's own files have it."""
    bends = {name: bend for name, bend in family.bends.items() if name not in ("attn_q.*", "attn_k.*")}
    return replace(
        family,
        bends=bends,
        renames={**RENAMES, **family.renames},
        rules=(*family.rules, yarn_log_multiplier),
        computes={**family.computes, "mscale_all_dim": ANY},
        vocab=(VocabKind.MISTRAL, *family.vocab),
    )


def yarn_log_multiplier(config: Config, arch: str) -> Iterable[KV]:
    """llama.cpp scales attention by YaRN's own rule unless this says no (0)."""
    if (value := config.rope.get("mscale_all_dim")) is not None:
        yield KV(Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=arch), GGUFValueType.FLOAT32, float(value))


def _n_ctx(checkpoint: Checkpoint, params: Mapping[str, Any]) -> Any:
    for name in ("max_position_embeddings", "max_seq_len", "model_max_length"):
        if params.get(name) is not None:
            return params[name]
    checkpoint.notes.append(f"{PARAMS} states no length of the context; {N_CTX} is taken")
    return N_CTX


def _rope(params: Mapping[str, Any], yarn: Any, path: Any) -> dict[str, Any]:
    """transformers' names: alpha is beta_slow, beta is beta_fast, and apply_scale says whether attention is scaled."""
    scaling = params.get("llama_4_scaling") or {}
    if not isinstance(yarn, dict) or not isinstance(scaling, dict):
        raise CheckpointError(f"{path}: yarn is {yarn!r:.60}, wanted an object.")
    out = {"rope_type": "yarn", "rope_theta": params.get("rope_theta"), "factor": yarn.get("factor"),
           "beta_fast": yarn.get("beta"), "beta_slow": yarn.get("alpha"),
           "original_max_position_embeddings": yarn.get("original_max_position_embeddings"),
           "mscale_all_dim": 0.0 if yarn.get("apply_scale") else 1.0,
           "llama_4_scaling_beta": scaling.get("beta")}  # fmt: skip
    return {name: value for name, value in out.items() if value is not None}
