"""Rules that most families share: sizes, layers, experts; `COMMON` has them in the converter's order."""

from collections.abc import Iterable

from gguf import Keys

from ggufkit.architectures.config import Config
from ggufkit.architectures.hparams.rope import rope_scaling, rope_sections, rope_theta, rope_theta_swa
from ggufkit.architectures.hparams.rule import U32, Rule, f32, fixed, u32
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import KV


def expert_gating(config: Config, arch: str) -> Iterable[KV]:
    """What makes a router's outputs weights."""
    name = config.get("score_function", "scoring_func", "score_func", "moe_router_activation_func")
    if name is None:
        return
    kind = {"softmax": 1, "sigmoid": 2, "noaux_tc": 2}.get(name) if isinstance(name, str) else None
    if kind is None:
        raise CheckpointError(f"{config.path}: scoring_func is {name!r:.60}, wanted 'softmax' or 'sigmoid'.")
    yield KV(Keys.LLM.EXPERT_GATING_FUNC.format(arch=arch), U32, kind)


def leading_dense(config: Config, arch: str) -> Iterable[KV]:
    n_dense = config.checked_integer("first_k_dense_replace", config.get("first_k_dense_replace") or 0, low=0)
    yield KV(Keys.LLM.LEADING_DENSE_BLOCK_COUNT.format(arch=arch), U32, n_dense)


def feed_forward_4x(config: Config, arch: str) -> Iterable[KV]:
    """Phi-2: four times the embedding, which the converter takes for granted."""
    n_ff, n_embd = config.integer("intermediate_size"), config.integer("hidden_size")
    if n_ff != 4 * n_embd or config.n_head_kv != config.integer("num_attention_heads"):
        raise CheckpointError(
            f"{config.path}: intermediate_size is {n_ff} and num_key_value_heads {config.n_head_kv}; "
            f"a Phi-2 has {4 * n_embd} and as many as heads. Is it another model?"
        )
    yield KV(Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch), U32, 4 * config.integer("hidden_size"))


def block_count(config: Config, arch: str) -> Iterable[KV]:
    yield KV(Keys.LLM.BLOCK_COUNT.format(arch=arch), U32, config.n_layer)


def mtp_layers(config: Config, arch: str) -> Iterable[KV]:
    if config.n_mtp:
        yield KV(Keys.LLM.NEXTN_PREDICT_LAYERS.format(arch=arch), U32, config.n_mtp)


CONTEXT_LENGTH = u32(Keys.LLM.CONTEXT_LENGTH, "max_position_embeddings", "n_ctx", "n_positions")
EMBEDDING_LENGTH = u32(Keys.LLM.EMBEDDING_LENGTH, "hidden_size", required=True)
FEED_FORWARD_LENGTH = u32(Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size", required=True)
HEAD_COUNT = u32(Keys.Attention.HEAD_COUNT, "num_attention_heads", required=True)
HEAD_COUNT_KV = u32(Keys.Attention.HEAD_COUNT_KV, "num_key_value_heads")
RMS_EPS = f32(Keys.Attention.LAYERNORM_RMS_EPS, "rms_norm_eps", "norm_eps")
LAYER_NORM_EPS = f32(Keys.Attention.LAYERNORM_EPS, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
VOCAB_SIZE = u32(Keys.LLM.VOCAB_SIZE, "vocab_size", required=True)
EXPERT_FEED_FORWARD = u32(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size", "expert_intermediate_size")
SHARED_FEED_FORWARD = u32(Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH, "shared_expert_intermediate_size")

FILE_TYPE = fixed(Keys.General.FILE_TYPE, U32, 0)  # its place; `convert` fills in the number

HEAD_LENGTHS = (u32(Keys.Attention.KEY_LENGTH, "head_dim"), u32(Keys.Attention.VALUE_LENGTH, "head_dim"))

COMMON_BUT_HEADS: tuple[Rule, ...] = (
    block_count,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    HEAD_COUNT_KV,
    rope_scaling,
    rope_sections,
    rope_theta,
    rope_theta_swa,
    RMS_EPS,
    LAYER_NORM_EPS,
    u32(Keys.LLM.EXPERT_COUNT, "num_local_experts", "num_experts", "n_routed_experts", low=0),
    u32(Keys.LLM.EXPERT_USED_COUNT, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", low=0),
    u32(Keys.LLM.EXPERT_GROUP_COUNT, "n_group"),
    u32(Keys.LLM.EXPERT_GROUP_USED_COUNT, "topk_group"),
    expert_gating,
)
COMMON: tuple[Rule, ...] = (*COMMON_BUT_HEADS, *HEAD_LENGTHS)
