"""Sizes that shapes are made of, and which layers are of a kind: functions of config.json."""

from ggufkit.architectures.config import Config


def n_layer(config: Config) -> int:
    return config.n_layer


def n_embd_2(config: Config) -> int:
    return 2 * n_embd(config)


def n_embd(config: Config) -> int:
    return config.integer("hidden_size")


def n_ff(config: Config) -> int:
    return config.integer("intermediate_size")


def n_ff_2(config: Config) -> int:
    return 2 * n_ff(config)


def n_ff_expert(config: Config) -> int:
    return config.integer("moe_intermediate_size", "expert_intermediate_size", "intermediate_size")


def n_ff_expert_2(config: Config) -> int:
    return 2 * n_ff_expert(config)


def n_ff_shared(config: Config) -> int:
    return config.integer("shared_expert_intermediate_size")


def n_vocab(config: Config) -> int:
    return config.integer("vocab_size")


def n_head(config: Config) -> int:
    return config.integer("num_attention_heads")


def n_head_kv(config: Config) -> int:
    return config.n_head_kv


def head_dim(config: Config) -> int:
    return config.head_dim


def n_q(config: Config) -> int:
    return n_head(config) * config.head_dim


def n_q_2(config: Config) -> int:
    """Queries, and a gate for each."""
    return 2 * n_q(config)


def n_kv(config: Config) -> int:
    return config.n_head_kv * config.head_dim


def n_qkv(config: Config) -> int:
    return n_q(config) + 2 * n_kv(config)


def n_ff_shexp(config: Config) -> int:
    """Shared experts lie side by side in one feed-forward network."""
    return n_ff_expert(config) * config.integer("n_shared_experts")


def n_ff_shared_granite(config: Config) -> int:
    return config.integer("shared_intermediate_size")


def n_expert(config: Config) -> int:
    return config.integer("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def one(config: Config) -> int:
    return 1


def n_delta_v(config: Config) -> int:
    return config.integer("linear_num_value_heads")


def n_delta_v_2(config: Config) -> int:
    return 2 * n_delta_v(config)


def delta_v_dim(config: Config) -> int:
    return config.integer("linear_value_head_dim")


def n_delta_values(config: Config) -> int:
    return n_delta_v(config) * delta_v_dim(config)


def n_delta_keys(config: Config) -> int:
    return config.integer("linear_num_key_heads") * config.integer("linear_key_head_dim")


def n_delta_qkv(config: Config) -> int:
    return 2 * n_delta_keys(config) + n_delta_values(config)


def n_conv(config: Config) -> int:
    return config.integer("linear_conv_kernel_dim")


def kv_lora_rank(config: Config) -> int:
    return config.integer("kv_lora_rank")


def q_lora_rank(config: Config) -> int:
    return config.integer("q_lora_rank")


def n_nope(config: Config) -> int:
    return config.integer("qk_nope_head_dim")


def n_head_v(config: Config) -> int:
    return config.integer("v_head_dim")


def n_kv_a(config: Config) -> int:
    return kv_lora_rank(config) + config.integer("qk_rope_head_dim")


def n_q_mla(config: Config) -> int:
    return n_head(config) * (n_nope(config) + config.integer("qk_rope_head_dim"))


def n_o_mla(config: Config) -> int:
    return n_head(config) * n_head_v(config)


def every(config: Config, layer: int) -> bool:
    return True


def is_linear(config: Config, layer: int) -> bool:
    return config.is_linear(layer)


def is_full(config: Config, layer: int) -> bool:
    return not config.is_linear(layer)


def is_mtp(config: Config, layer: int) -> bool:
    """The blocks behind the layers, which guess further tokens."""
    return layer >= config.integer("num_hidden_layers")


def is_dense(config: Config, layer: int) -> bool:
    """The leading layers, which have no experts."""
    return layer < config.checked_integer("first_k_dense_replace", config.get("first_k_dense_replace") or 0, low=0)


def is_sparse(config: Config, layer: int) -> bool:
    return not is_dense(config, layer)
