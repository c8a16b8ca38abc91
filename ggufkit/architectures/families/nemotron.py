"""Nemotron-H: each layer is a state, attention, a feed-forward network or experts, and nothing else."""

from collections.abc import Callable, Mapping
from typing import Any

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures import own_rules as own
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.config import Config, Default
from ggufkit.architectures.families.hybrids import ATTENTION_BARE, NO_LIMIT
from ggufkit.architectures.families.llama import INTERLEAVED
from ggufkit.architectures.families.llama_kin import OUTPUT_BIAS
from ggufkit.architectures.families.parts import QKV_BIAS, WHOLE
from ggufkit.architectures.family import Experts, Family, Layers, Shape
from ggufkit.architectures.mamba import MAMBA, MAMBA_BENDS, MAMBA_BIAS, MAMBA_NORM, MAMBA_RENAMES, ssm_sizes
from ggufkit.architectures.sizes import n_embd, n_expert, n_ff, n_ff_expert
from ggufkit.errors import CheckpointError
from ggufkit.tokenizer import VocabKind

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
WORDS = {"linear_attention": "mamba", "full_attention": "attention"}  # transformers 5


def kinds(values: Mapping[str, Any]) -> list[str]:
    """What each layer is, from any of the three spellings; [] where config.json does not say it."""
    listed = values.get("hybrid_override_pattern") or values.get("layers_block_type") or values.get("layer_types") or ""
    names = map(str, listed if isinstance(listed, list | str) else "")
    return [WORDS.get(name, LETTERS.get(name, name)) for name in names]


def kind_of(config: Config, layer: int) -> str:
    names = ("hybrid_override_pattern", "layers_block_type", "layer_types")
    found = kinds({name: config.get(name) for name in names})
    if len(found) != config.integer("num_hidden_layers") or not set(found) <= set(LETTERS.values()):
        raise CheckpointError(
            f"{config.path}: hybrid_override_pattern names {len(found)} layers, wanted "
            f"{config.integer('num_hidden_layers')} of {' '.join(LETTERS)}."
        )
    return found[layer]


def is_(kind: str) -> Callable[[Config, int], bool]:
    return lambda config, layer: kind_of(config, layer) == kind


def n_embd_expert(config: Config) -> int:
    """Columns that experts see: the embedding's, or those of a smaller space that it is taken to."""
    return n_embd(config) if config.get("moe_latent_size") is None else config.integer("moe_latent_size")


def head_width(config: Config) -> int:
    """Nemotron-H of 2025 calls it attention_head_dim."""
    return 128 if config.get("attention_head_dim") is None else config.integer("attention_head_dim")


def n_ff_shared(config: Config) -> int:
    return config.integer("moe_shared_expert_intermediate_size")


EXPERTS: dict[str, Shape] = {
    "ffn_gate_inp.weight": (n_expert, n_embd),
    "exp_probs_b.bias": (n_expert,),
    "ffn_up_exps.weight": (n_expert, n_ff_expert, n_embd_expert),
    "ffn_down_exps.weight": (n_expert, n_embd_expert, n_ff_expert),
    "ffn_up_shexp.weight": (n_ff_shared, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_shared),
}
LATENT: dict[str, Shape] = {
    "ffn_latent_down.weight": (n_embd_expert, n_embd), "ffn_latent_up.weight": (n_embd, n_embd_expert),
}  # fmt: skip
NEMOTRON_LAYERS = (
    Layers({"attn_norm.weight": (n_embd,)}),
    Layers(MAMBA | MAMBA_NORM, is_("mamba")),
    Layers(MAMBA_BIAS, is_("mamba"), required=False),
    Layers(ATTENTION_BARE, is_("attention")),
    Layers(QKV_BIAS | OUTPUT_BIAS, is_("attention"), required=False),
)
NEMOTRON_RULES = (
    *hp.COMMON_BUT_HEADS, hp.FILE_TYPE, hp.VOCAB_SIZE, own.embedding_share,
    ssm_sizes(
        Keys.SSM.CONV_KERNEL, Keys.SSM.STATE_SIZE, Keys.SSM.GROUP_COUNT, Keys.SSM.INNER_SIZE, Keys.SSM.TIME_STEP_RANK
    ),
    own.kv_heads_where(is_("attention")), hp.fixed(Keys.Rope.SCALING_FINETUNED, GGUFValueType.BOOL, False),
    hp.fixed(Keys.LLM.CONTEXT_LENGTH, GGUFValueType.UINT32, 1 << 20), *hp.HEAD_LENGTHS,
)  # fmt: skip
NEMOTRON_COMPUTES: dict[str, Values] = {
    "mlp_hidden_act": (None, "relu2"), "mamba_hidden_act": (None, "silu"), "time_step_limit": NO_LIMIT,
} | dict.fromkeys((
    "layer_types", "layers_block_type", "chunk_size", "expand", "mamba_proj_bias", "num_logits_to_keep",
    "use_conv_bias",
    "residual_in_fp32", "time_step_floor", "time_step_max", "time_step_min", "time_step_rank", "use_mamba_kernels",
    "norm_topk_prob", "routed_scaling_factor", "n_shared_experts", "moe_shared_expert_overlap", "mamba_ssm_cache_dtype",
    "mtp_layers_block_type", "mtp_hybrid_override_pattern",
), ANY)  # fmt: skip
NEMOTRON_DEFAULTS: dict[str, Default] = {
    "layer_norm_epsilon": 1e-5, "max_position_embeddings": 4096, "num_key_value_heads": 8, "head_dim": head_width,
    "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4,
}  # fmt: skip
NEMOTRON_RENAMES = MAMBA_RENAMES | {r"^backbone\.(?=layers\.\d+\.mixer\.experts\.)": "model."}

NEMOTRON_H = Family(
    title="Nemotron-H, Nemotron Nano 2 (dense)",
    classes=("NemotronHForCausalLM",),
    arch=MODEL_ARCH.NEMOTRON_H,
    source="conversion/nemotron.py NemotronHModel",
    when=lambda values: "moe" not in kinds(values),
    rules=(*NEMOTRON_RULES, own.feed_forward_where(is_("mlp"), n_ff)),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(*NEMOTRON_LAYERS, Layers({"ffn_up.weight": (n_ff, n_embd), "ffn_down.weight": (n_embd, n_ff)}, is_("mlp"))),
    bends=INTERLEAVED | MAMBA_BENDS,
    renames=NEMOTRON_RENAMES,
    computes=NEMOTRON_COMPUTES,
    defaults=NEMOTRON_DEFAULTS,
)

NEMOTRON_H_MOE = Family(
    title="Nemotron 3 (MoE)",
    classes=("NemotronHForCausalLM",),
    arch=MODEL_ARCH.NEMOTRON_H_MOE,
    source="conversion/nemotron.py NemotronHModel",
    rules=(
        *NEMOTRON_RULES, own.feed_forward_where(is_("moe"), n_ff_expert), hp.EXPERT_FEED_FORWARD,
        hp.u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, "moe_shared_expert_intermediate_size", required=True),
        hp.u32(Keys.LLM.EXPERT_SHARED_COUNT, "n_shared_experts", required=True),
        hp.boolean(Keys.LLM.EXPERT_WEIGHTS_NORM, "norm_topk_prob", both=True),
        hp.f32(Keys.LLM.EXPERT_WEIGHTS_SCALE, "routed_scaling_factor", required=True),
        hp.u32(Keys.LLM.MOE_LATENT_SIZE, "moe_latent_size"),
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=(
        *NEMOTRON_LAYERS, Layers(EXPERTS, is_("moe")),
        Layers(LATENT, lambda config, i: is_("moe")(config, i) and config.get("moe_latent_size") is not None),
    ),
    experts=Experts("mixer.experts", {"down_proj": "ffn_down_exps", "up_proj": "ffn_up_exps"}),
    bends=INTERLEAVED | MAMBA_BENDS,
    renames=NEMOTRON_RENAMES,
    computes=NEMOTRON_COMPUTES,
    defaults=NEMOTRON_DEFAULTS
    | {"n_shared_experts": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "num_experts_per_tok": 2},
)  # fmt: skip
