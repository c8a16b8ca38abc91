"""Cases of the families whose layers keep a state: Mamba-2 or short convolutions, beside attention."""

from case_parts import CHAT, ENDS, LLAMA3_TOKENS, bpe_case, config
from vocabularies import GPT2, bpe, special, split, template

LLAMA3 = (
    bpe(split("cl100k"), LLAMA3_TOKENS, ignore_merges=True, post_processor=template("<|begin_of_text|>")), "llama-bpe",
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "chat_template": CHAT},
)  # fmt: skip
GRANITE4_TOKENS = special("<|end_of_text|>", "<|start_of_role|>")
GRANITE4 = {
    "num_key_value_heads": 2, "vocab_size": 656, "rope_theta": 10000, "rope_scaling": None, "rms_norm_eps": 1e-5,
    "attention_multiplier": 0.0625, "embedding_multiplier": 12, "residual_multiplier": 0.22, "logits_scaling": 6,
    "init_method": "mup", "normalization_function": "rmsnorm", "hidden_act": "silu", "tie_word_embeddings": True,
    "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_head": 16, "mamba_d_state": 16,
    "mamba_expand": 2, "mamba_n_groups": 1, "mamba_n_heads": 8, "mamba_proj_bias": False, "attention_bias": False,
    "bos_token_id": 640, "eos_token_id": 640, "shared_intermediate_size": 64,
}  # fmt: skip
GRANITE4_TOKENIZER = (
    bpe(split("cl100k"), GRANITE4_TOKENS, post_processor=GPT2), "dbrx",
    {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|end_of_text|>", "eos_token": "<|end_of_text|>",
     "chat_template": CHAT},
)  # fmt: skip
NEMOTRON = {
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 656, "layer_norm_epsilon": 1e-5, "rms_norm_eps": 1e-5,
    "attention_bias": False, "chunk_size": 128, "conv_kernel": 4, "expand": 2, "mamba_head_dim": 16, "mamba_num_heads": 8,
    "mamba_hidden_act": "silu", "mamba_proj_bias": False, "mlp_bias": False, "mlp_hidden_act": "relu2", "n_groups": 2,
    "num_logits_to_keep": 1, "rescale_prenorm_residual": True, "residual_in_fp32": False, "ssm_state_size": 16,
    "time_step_floor": 0.0001, "time_step_max": 0.1, "time_step_min": 0.001, "use_bias": False, "use_conv_bias": True,
    "use_mamba_kernels": True, "num_hidden_layers": 4,
}  # fmt: skip
TEKKEN = (
    bpe(split("tekken"), special("<s>", "</s>", "<SPECIAL_10>"), ignore_merges=True, post_processor=template("<s>")),
    "tekken", {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT},
)  # fmt: skip
LFM2 = {
    "num_key_value_heads": 2, "vocab_size": 656, "norm_eps": 1e-5, "rope_theta": 1000000.0, "conv_L_cache": 3,
    "conv_bias": False, "layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3, "use_pos_enc": True,
}  # fmt: skip

HYBRIDS = {
    "granite-4.0-h-tiny": bpe_case(
        config("granitemoehybrid", "GraniteMoeHybridForCausalLM", **GRANITE4, layer_types=["mamba", "attention"],
               position_embedding_type="nope", num_local_experts=4, num_experts_per_tok=2, intermediate_size=32),
        *GRANITE4_TOKENIZER,
    ),
    "granite-4.0-h-1b": bpe_case(
        config("granitemoehybrid", "GraniteMoeHybridForCausalLM", **GRANITE4, layer_types=["mamba", "attention"],
               position_embedding_type="nope", num_local_experts=0, num_experts_per_tok=0, intermediate_size=64),
        *GRANITE4_TOKENIZER,
    ),
    # no layer keeps a state: an ordinary Granite
    "granite-4.0-micro": bpe_case(
        config("granitemoehybrid", "GraniteMoeHybridForCausalLM", **GRANITE4, layer_types=["attention"] * 2,
               position_embedding_type="rope", num_local_experts=0, num_experts_per_tok=0, intermediate_size=64),
        *GRANITE4_TOKENIZER,
    ),
    # attention and a state in every layer; weights are scaled on their way into the file
    "falcon-h1-0.5b-instruct": bpe_case(
        config("falcon_h1", "FalconH1ForCausalLM", num_key_value_heads=2, head_dim=16, vocab_size=656, rms_norm_eps=1e-5,
               rope_theta=1e11, mamba_d_ssm=96, mamba_n_heads=6, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16,
               mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=128, mamba_conv_bias=True, mamba_proj_bias=False,
               mamba_norm_before_gate=False, mamba_rms_norm=False, mamba_use_mlp=True, attention_bias=False, mlp_bias=False,
               projectors_bias=False, num_logits_to_keep=1, tie_word_embeddings=False, lm_head_multiplier=0.0390625,
               embedding_multiplier=5.656854249492381, mlp_multipliers=[0.8838834764831844, 0.5859375],
               key_multiplier=0.39062499999999994, attention_out_multiplier=0.9375, attention_in_multiplier=1.0,
               ssm_multipliers=[0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
               ssm_in_multiplier=1.25, ssm_out_multiplier=0.23570226039551587, **ENDS),
        LLAMA3[0], "falcon-h1", LLAMA3[2],
    ),
    "nemotron-nano-9b-v2": bpe_case(
        config("nemotron_h", "NemotronHForCausalLM", **NEMOTRON, hybrid_override_pattern="M-*-", **ENDS), *TEKKEN, raw=True,
    ),
    "nemotron-3-nano-30b-a3b": bpe_case(
        config("nemotron_h", "NemotronHForCausalLM", **NEMOTRON, hybrid_override_pattern="ME*E", n_routed_experts=4,
               num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32, moe_shared_expert_intermediate_size=64,
               n_group=1, topk_group=1, routed_scaling_factor=2.5, norm_topk_prob=True, **ENDS), *TEKKEN,
    ),
    "lfm2-1.2b": bpe_case(
        config("lfm2", "Lfm2ForCausalLM", **LFM2, block_auto_adjust_ff_dim=True, block_dim=64, block_ff_dim=96,
               block_ffn_dim_multiplier=1.0, block_multiple_of=32, block_norm_eps=1e-5, block_use_swiglu=True,
               block_use_xavier_init=True, conv_dim=64, conv_dim_out=64, conv_use_xavier_init=True, num_heads=4,
               theta=1000000.0, tie_embedding=True, **ENDS),
        LLAMA3[0], "lfm2", LLAMA3[2],
    ),
    "lfm2-8b-a1b": bpe_case(
        config("lfm2_moe", "Lfm2MoeForCausalLM", **LFM2, moe_intermediate_size=32, num_dense_layers=1, num_experts=4,
               num_experts_per_tok=2, norm_topk_prob=True, routed_scaling_factor=1.0, use_expert_bias=True,
               tie_embedding=True, **ENDS),
        LLAMA3[0], "lfm2", LLAMA3[2],
    ),
}  # fmt: skip
