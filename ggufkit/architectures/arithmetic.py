"""Keys of config.json that change what a model computes, held against what llama.cpp's graphs compute.

A file whose config declares other arithmetic would be another model without a word, so the conversion stops and names
the key. `COMMON` lists such keys of any family with the values under which they change nothing; what a family's graph
does beyond that is its own `computes`. `INERT` lists keys that change no logits. An unknown key is a note.
Sources: modeling_*.py of transformers 5.23; llama.cpp's src/models.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ggufkit.architectures.card import brief
from ggufkit.architectures.config import Config
from ggufkit.errors import CheckpointError
from ggufkit.formats.files import shown
from ggufkit.formats.model import ModelTensor

if TYPE_CHECKING:
    from ggufkit.architectures.family import Family

Values = tuple[Any, ...]  # None among them: the key may be absent
ANY: Values = ("anything",)  # the family's graph takes every value, or its rules check it
WINDOW: Values = ("a window",)  # transformers looks back so far and no further, llama.cpp to the beginning
SILU: Values = (None, "silu", "swish")
GELU_TANH: Values = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # what ggml_gelu computes

_OFF: Values = (None, False, 0)
_ONE: Values = (None, 1)
_NONE: Values = (None, 0, False, [], {}, "")

COMMON: Mapping[str, Values] = (
    dict.fromkeys(("hidden_act", "hidden_activation", "activation_function", "activation"), SILU)
    | dict.fromkeys((
        "attn_logit_softcapping", "final_logit_softcapping", "logit_cap", "router_logit_softcapping", "clip_qkv",
        "query_pre_attn_scalar", "attention_sinks", "swiglu_limit", "scale_depth", "dim_model_base",
        "no_rope_layers", "no_rope_layer_interval", "attention_chunk_size", "num_kv_shared_layers", "pruned_heads",
        "hidden_size_per_layer_input", "mlp_only_layers", "first_k_dense_replace", "n_shared_experts",
        "num_shared_experts", "kv_lora_rank", "q_lora_rank", "altup_num_inputs", "laurel_rank",
    ), _NONE)
    | dict.fromkeys((
        "use_qk_norm", "qk_norm", "qk_layernorm", "alibi", "add_cross_attention", "is_encoder_decoder",
        "tie_encoder_decoder", "parallel_attn", "parallel_residual", "use_parallel_residual", "scale_embedding",
        "normalize_embedding", "attn_temperature_tuning", "use_bidirectional_attention", "rope_interleaved",
        "use_mup", "attention_output_gate", "use_mrope", "embedding_norm", "relu_squared",
    ), _OFF)
    | dict.fromkeys((
        "attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale",
        "scale_emb", "embedding_scale", "lm_head_multiplier", "partial_rotary_factor", "rotary_pct", "rope_pct",
        "routed_scaling_factor", "n_group", "topk_group", "decoder_sparse_step", "moe_layer_freq",
        "interleave_moe_layer_step",
    ), _ONE)
    | {"is_causal": (None, True), "rope_interleave": (None, True),
       "norm_topk_prob": (None, True), "position_embedding_type": (None, "rope", "rotary"),
       "scoring_func": (None, "softmax"), "layer_types": ANY}
)  # fmt: skip

# Of the RoPE scaling: keys that no type needs a word about, those that each type's entries carry, and those that
# transformers reads too, with the values under which they change nothing.
_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "factor"} | {
    "mrope_section", "mrope_interleaved",
}  # fmt: skip
_ROPE_WRITTEN = {
    "llama3": {"low_freq_factor", "high_freq_factor"},
    "yarn": {"attention_factor", "attn_factor", "beta_fast", "beta_slow", "extrapolation_factor"},
    "longrope": {"long_factor", "short_factor"},
    "su": {"long_factor", "short_factor"},
}
_ROPE_OTHER: Mapping[str, dict[str, Values]] = {
    "proportional": {"factor": _ONE},
    "yarn": {"mscale": (None,), "mscale_all_dim": (None, 0), "truncate": (None, True)},
    "longrope": dict.fromkeys(("attention_factor", "short_mscale", "long_mscale"), (None,)),
    "su": dict.fromkeys(("attention_factor", "short_mscale", "long_mscale"), (None,)),
}
_ROPE_TENSORS = {
    "llama3": "rope_freqs.weight",
    "proportional": "rope_freqs.weight",
    "longrope": "rope_factors_long.weight",
    "su": "rope_factors_long.weight",
}

_OTHER_SENSES = ("_", "image_", "vision_", "audio_", "video_", "mm_")  # of other parts of the model, or private
INERT = frozenset({
    # what the folder is, and who made it
    "architectures", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version", "quantization_config",
    "compression_config", "text_config", "id2label", "label2id", "problem_type",
    "finetuning_task", "task_specific_params", "tokenizer_class", "language", "license", "unsloth_fixed",
    "unsloth_version", "pretraining_tp", "tensor_parallel_size", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "is_llama_config", "transformers.js_config", "resid_mlp_pdrop", "bnb_4bit_compute_dtype",
    "gradient_checkpointing", "model_max_length", "max_sequence_length", "tokenizer_path",
    # training
    "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout",
    "hidden_dropout_prob", "classifier_dropout", "dropout", "initializer_range", "initializer_cutoff_factor",
    "router_aux_loss_coef", "router_jitter_noise", "input_jitter_noise", "output_router_logits", "aux_loss_alpha",
    "seq_aux", "load_balance_coeff", "z_loss", "rescale_prenorm_residual", "fused_loss", "loss_type",
    # how a library runs it
    "use_cache", "cache_implementation", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict",
    "chunk_size_feed_forward", "attn_implementation", "use_flash_attn", "use_flash_attention", "fuse_norm", "ep_size",
    "use_cache_quantization", "use_cache_kernel", "cache_dtype", "is_decoder", "low_cpu_mem_usage",
    # tokens: the tokenizer's files and `ggufkit.tokenizer` say which there are
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "boi_token_index", "eoi_token_index", "eot_token_id",
    "boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_index", "eoa_token_id",
    # how to sample
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "do_sample", "num_beams", "num_beam_groups", "diversity_penalty",
    "early_stopping", "max_length", "min_length", "num_return_sequences", "output_scores", "bad_words_ids",
    "begin_suppress_tokens", "suppress_tokens", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "return_dict_in_generate", "prefix", "cross_attention_hidden_size",
    "max_new_tokens",
    # blocks that guess further tokens: they are left out, or the tensors have no place
    "num_nextn_predict_layers", "mtp_num_hidden_layers",
    # which tensors there are: the tensors say it themselves
    "attention_bias", "mlp_bias", "qkv_bias", "bias", "use_bias", "lm_head_bias", "tie_word_embeddings", "head_dim",
    "moe_intermediate_size", "shared_expert_intermediate_size", "max_window_layers", "use_sliding_window",
    "sliding_window", "rope_scaling", "rope_parameters", "rope_theta", "original_max_position_embeddings",
})  # fmt: skip


def check_arithmetic(family: "Family", config: Config, tensors: Iterable[ModelTensor]) -> None:
    """Raises CheckpointError naming the first key under which llama.cpp would compute another model.

    `config.notes` gets a line for unknown keys, and for what differs beyond some length of text only.
    """
    for key, accepted in {**COMMON, **family.computes}.items():
        if accepted is WINDOW:
            _check_window(config, key)
        elif not _is_accepted(value := config.stated(key), accepted):
            raise _other(config, key, value, f"llama.cpp's {family.arch_name} graph computes {_listed(accepted)}")
    if config.stated("topk_method") == "group_limited_greedy" and config.stated("n_group") not in (None, 1):
        config.notes.append("topk_method: llama.cpp ranks groups of experts by their best two, this model by the best")
    _check_layers(family, config)
    _check_rope(family, config, {tensor.name for tensor in tensors})
    known = config.read | COMMON.keys() | family.computes.keys() | INERT
    _note_unknown(config, (key for key in config.names if key not in known and not key.startswith(_OTHER_SENSES)))


def _is_accepted(value: Any, accepted: Values) -> bool:
    return accepted is ANY or any(value == each for each in accepted)


def _listed(accepted: Values) -> str:
    return " or ".join("no such entry" if each is None else shown(repr(each)) for each in accepted)


def _check_rope(family: "Family", config: Config, tensor_names: set[str]) -> None:
    kind, label = config.rope_type, "of the RoPE scaling"
    for key, accepted in ({"partial_rotary_factor": _ONE} | _ROPE_OTHER.get(kind, {})).items():
        if not _is_accepted(value := config.rope.get(key), family.computes.get(key, accepted)):
            raise _other(config, f"{key} {label}", value, f"llama.cpp's {family.arch_name} graph does not read it")
    if kind in ("linear", "yarn") and not config.rope_number("factor"):
        raise _other(config, f"factor {label}", 0, "a number above 0 is wanted")
    declared = config.stated("rope_scaling")
    if (
        isinstance(declared, dict)
        and declared.get("factor") is not None
        and not {"type", "rope_type"} & declared.keys()
    ):
        raise _other(config, f"factor {label}", declared["factor"], "no rope_type says what it scales")
    if kind in _ROPE_TENSORS and _ROPE_TENSORS[kind] not in tensor_names:
        lacking = kind in ("longrope", "su") and config.rope.get("long_factor") is None
        why = "long_factor is absent" if lacking else f"llama.cpp's {family.arch_name} graph does not read its factors"
        raise _other(config, f"rope_type {label}", kind, why)
    if kind == "dynamic" and "alpha" not in family.computes:
        config.notes.append("RoPE scaling is dynamic: beyond the context of the training llama.cpp does not scale")
    if kind == "yarn" and config.rope.get("truncate") is False:
        config.notes.append(
            "truncate of the RoPE scaling is false: llama.cpp rounds the limits of YaRN whatever it says, which moves "
            "the frequencies between them a little"
        )
    known = (
        _ROPE | _ROPE_WRITTEN.get(kind, set()) | set(_ROPE_OTHER.get(kind, {})) | family.computes.keys() | config.read
    )
    _note_unknown(config, (f"{key} {label}" for key in config.rope if key not in known))


def _check_window(config: Config, key: str) -> None:
    window, n_ctx = config.get(key), config.get("max_position_embeddings")
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (window, n_ctx))
    if numbers and 0 < window < n_ctx and config.get("use_sliding_window") is not False:
        config.notes.append(
            f"{key} is {window}: llama.cpp looks back to the beginning, so texts of more than {window} tokens are read "
            "otherwise than in transformers"
        )


def _check_layers(family: "Family", config: Config) -> None:
    """Layers of another kind than attention to all tokens or to a window are another graph."""
    listed = config.stated("layer_types")
    if "layer_types" in family.computes or not isinstance(listed, list):
        return
    for each in listed:
        if each not in ("full_attention", "sliding_attention"):
            raise _other(config, "layer_types", each, "all layers of llama.cpp's graph are of full attention")


def _note_unknown(config: Config, keys: Iterable[str]) -> None:
    unknown = sorted(keys)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        config.notes.append(
            f"config.json: not known and not used: {', '.join(map(shown, unknown[:5]))}{more}; if one of "
            "them changes what the model computes, the file computes something else"
        )


def _other(config: Config, key: str, value: Any, why: str) -> CheckpointError:
    return CheckpointError(
        f"{config.path}: {key} is {brief(value)}, but {why}. The file would be another model, so it is not made."
    )
