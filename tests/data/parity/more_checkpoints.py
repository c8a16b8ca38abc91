"""Cases of the families that came later: Gemma 4, kin of DeepSeek, mixtures, hybrids."""

from case_parts import (
    CHAT,
    ENDS,
    GLM_CONFIG,
    GLM_TOKENS,
    LLAMA3_TOKENS,
    MLA,
    QWEN,
    QWEN_CONFIG,
    QWEN_ENDS,
    SIZES,
    SPM,
    bpe_case,
    case,
    config,
)  # fmt: skip
from vocabularies import GPT2, bpe, special, split, template

GEMMA4_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": text, "special": special, "normalized": False, "single_word": False, "lstrip": False,
         "rstrip": False}
        for i, text, special in (
            (0, "<unk>", True), (1, "<s>", True), (2, "</s>", True), (480, "<|turn>", True), (481, "<|channel>", True),
            (482, "<|tool_response>", True), (483, "<|image|>", True), (484, "<mask>", True), (485, "<|other>", False),
        )
    ],
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    "post_processor": None,
    "decoder": {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ],
    },
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
}  # fmt: skip
GEMMA4_FILES = {
    "tokenizer.json": GEMMA4_TOKENIZER,
    "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                              "unk_token": "<unk>", "pad_token": "<unk>", "mask_token": "<mask>", "sot_token": "<|turn>",
                              "soc_token": "<|channel>", "str_token": "<|tool_response>",
                              "extra_special_tokens": ["<|image|>"]},
    "chat_template.jinja": CHAT,
}  # fmt: skip
GEMMA4_TEXT = SIZES | {
    "model_type": "gemma4_text", "head_dim": 16, "global_head_dim": 32, "num_key_value_heads": 2, "vocab_size": 486,
    "vocab_size_per_layer_input": 486, "rms_norm_eps": 1e-6, "sliding_window": 8, "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh", "attention_k_eq_v": False, "num_global_key_value_heads": None,
    "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "use_double_wide_mlp": False, "enable_moe_block": False,
    "layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": 30.0, "attention_bias": False,
    "use_bidirectional_attention": "vision", "num_experts": None, "top_k_experts": None, "moe_intermediate_size": None,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "rope_parameters": {
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
}  # fmt: skip


def gemma4(**text):
    outer = {
        "architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "eos_token_id": [2, 480],
        "image_token_id": 483, "video_token_id": 483, "audio_token_id": 483, "boi_token_id": 480, "eoi_token_id": 480,
        "tie_word_embeddings": True, "vision_config": None, "audio_config": None, "text_config": GEMMA4_TEXT | text,
    }  # fmt: skip
    return case(outer, vocabulary="llama_hf.json", files=GEMMA4_FILES, pre="gemma4")


MORE = {
    # keys serve as values where all is seen; heads of two widths
    "gemma-4-31b-it": gemma4(attention_k_eq_v=True, num_global_key_value_heads=1),
    "gemma-4-26b-a4b-it": gemma4(
        attention_k_eq_v=True, num_global_key_value_heads=1, enable_moe_block=True, num_experts=4, top_k_experts=2,
        moe_intermediate_size=32,
    ),
    # embeddings for each layer; the last layers use the keys of earlier ones and are twice as wide
    "gemma-4-e2b-it": gemma4(
        num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=2,
        use_double_wide_mlp=True, hidden_size_per_layer_input=16, use_bidirectional_attention=None,
    ),
    # four streams that predict and correct each other; embeddings for each layer, of fewer tokens
    "gemma-3n-e2b-it": case(
        config("gemma3n_text", "Gemma3nForCausalLM", num_key_value_heads=2, head_dim=16, vocab_size=480,
               vocab_size_per_layer_input=472, hidden_size_per_layer_input=256, altup_num_inputs=4, altup_active_idx=0,
               altup_coef_clip=120.0, altup_correct_scale=True, laurel_rank=64, num_kv_shared_layers=0, sliding_window=8,
               layer_types=["sliding_attention", "full_attention"], activation_sparsity_pattern=[0.95, 0.95],
               rms_norm_eps=1e-6, rope_theta=1000000.0, rope_local_base_freq=10000.0, final_logit_softcapping=30.0,
               hidden_activation="gelu_pytorch_tanh", pad_token_id=0)
        | {"intermediate_size": [2048, 2048]},  # llama.cpp divides the deviation by n - 1: nothing at real widths
        vocabulary="spm_bare.model", files={"tokenizer_config.json": {
            "tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            "add_bos_token": True, "add_eos_token": False, "chat_template": CHAT}},
    ),
    "glm-4.7-flash": bpe_case(
        config("glm4_moe_lite", "Glm4MoeLiteForCausalLM", **MLA | {"rms_norm_eps": 1e-5}, q_lora_rank=24, n_routed_experts=4,
               num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32, first_k_dense_replace=1,
               routed_scaling_factor=1.8, norm_topk_prob=True, topk_method="noaux_tc", n_group=1, topk_group=1,
               num_nextn_predict_layers=1, rope_theta=1e6, partial_rotary_factor=1.0, rope_scaling=None,
               eos_token_id=[640, 641], bos_token_id=None),
        bpe(split("cl100k"), GLM_TOKENS), "glm4", GLM_CONFIG, mtp="glm",
    ),
    # ranks instead of merges, special tokens behind them; the rest is DeepSeek V3's
    "kimi-k2-instruct": case(
        config("deepseek_v3", "DeepseekV3ForCausalLM", **MLA | {"vocab_size": 912}, q_lora_rank=24, n_routed_experts=4,
               num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32, first_k_dense_replace=1,
               routed_scaling_factor=2.827, norm_topk_prob=True, scoring_func="sigmoid", topk_method="noaux_tc", n_group=1,
               topk_group=1, num_nextn_predict_layers=0, rope_theta=50000.0,
               rope_scaling={"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                             "original_max_position_embeddings": 64, "type": "yarn"}, **ENDS),
        vocabulary="bpe.tiktoken", pre="kimi-k2",
        files={
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    str(640 + i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                                   "single_word": False, "special": True}
                    for i, text in enumerate(("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>"))
                },
                "bos_token": "[BOS]", "eos_token": "[EOS]", "tokenizer_class": "TikTokenTokenizer", "chat_template": CHAT,
                "model_max_length": 1000000000000000019884624838656,
            },
        },
    ),
    "mistral-small-4-119b": bpe_case(
        {
            "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 650,
            "spatial_merge_size": 2, "tie_word_embeddings": False,
            "text_config": SIZES | ENDS | MLA | {
                "model_type": "mistral4", "q_lora_rank": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
                "n_shared_experts": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1,
                "routed_scaling_factor": 1.0, "norm_topk_prob": True, "head_dim": 24, "rope_interleave": True,
                "tie_word_embeddings": False,
                "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1,
                                    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 8,
                                    "rope_theta": 10000.0, "rope_type": "yarn", "type": "yarn"},
            },
            "vision_config": {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                              "num_attention_heads": 2, "image_size": 8, "patch_size": 2, "head_dim": 8},
        },
        bpe(split("tekken"), special("<s>", "</s>", "[INST]"), ignore_merges=True, post_processor=template("<s>")),
        "tekken", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    ),
    "ernie-4.5-0.3b-pt": case(
        config("ernie4_5", "Ernie4_5ForCausalLM", num_key_value_heads=2, head_dim=32, vocab_size=480, rope_theta=500000.0,
               rms_norm_eps=1e-5, use_bias=False, tie_word_embeddings=True),
        files={"tokenizer_config.json": SPM["tokenizer_config.json"] | {"chat_template": CHAT}},
    ),
    "ernie-4.5-21b-a3b-pt": case(
        config("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", num_key_value_heads=2, vocab_size=480, rope_theta=500000.0,
               rms_norm_eps=1e-5, use_bias=False, tie_word_embeddings=True, intermediate_size=128, moe_intermediate_size=32,
               moe_num_experts=4, moe_k=2, moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=1,
               moe_layer_interval=1, moe_capacity=[64, 64, 64], moe_gate="topk", moe_use_aux_free=True),
        files={"tokenizer_config.json": SPM["tokenizer_config.json"] | {"chat_template": CHAT}},
    ),
    "hunyuan-4b-instruct": bpe_case(
        config("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", num_key_value_heads=2, head_dim=16, vocab_size=656,
               max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=10000.0, use_qk_norm=True, attention_bias=False,
               mlp_bias=False, tie_word_embeddings=True, pad_token_id=642, eod_token_id=641, **ENDS,
               rope_scaling={"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                             "mscale_all_dim": 1.0, "type": "dynamic"}),
        bpe(split("numbers", "cjk", "deepseek"), special("<|startoftext|>", "<|eos|>", "<|pad|>")),
        "hunyuan-dense", {"bos_token": "<|startoftext|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"},
    ),
    "dots.llm1.inst": bpe_case(
        config("dots1", "Dots1ForCausalLM", num_key_value_heads=4, head_dim=16, rope_theta=1e7, n_routed_experts=4,
               num_experts_per_tok=2, n_shared_experts=2, moe_intermediate_size=32, first_k_dense_replace=1, n_group=1,
               topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5, scoring_func="sigmoid", topk_method="noaux_tc",
               moe_layer_freq=1, use_sliding_window=False, sliding_window=None, **QWEN_ENDS),
        QWEN, "qwen2", QWEN_CONFIG,
    ),
    "exaone-4.0-1.2b": bpe_case(
        config("exaone4", "Exaone4ForCausalLM", num_key_value_heads=2, head_dim=16, vocab_size=656, rms_norm_eps=1e-5,
               rope_theta=1000000, sliding_window=None, sliding_window_pattern=None, tie_word_embeddings=True,
               layer_types=["full_attention"] * 2, reorder_and_upcast_attn=False,
               rope_scaling={"factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 128, "rope_type": "llama3"}, **ENDS),
        bpe(GPT2, special("[BOS]", "[|endofturn|]"), normalizer={"type": "NFC"}), "exaone4",
        {"bos_token": "[BOS]", "eos_token": "[|endofturn|]", "chat_template": CHAT},
    ),
    # every fourth layer without RoPE; experts in every second layer, one shared by all tokens
    "llama-4-scout-17b-16e": bpe_case(
        config("llama4_text", "Llama4ForCausalLM", num_hidden_layers=4, num_key_value_heads=2, head_dim=16, vocab_size=656,
               intermediate_size=32, intermediate_size_mlp=64, num_local_experts=4, num_experts_per_tok=1,
               interleave_moe_layer_step=2, rms_norm_eps=1e-5, rope_theta=500000.0, use_qk_norm=True, no_rope_layers=[1, 1, 1, 0],
               attention_chunk_size=8192, attn_temperature_tuning=True, floor_scale=8192, attn_scale=0.1, attention_bias=False,
               output_router_logits=False, for_llm_compressor=False,
               rope_scaling={"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 128, "rope_type": "llama3"}, **ENDS),
        bpe(split("o200k"), LLAMA3_TOKENS, ignore_merges=True, post_processor=template("<|begin_of_text|>")), "llama4",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": CHAT},
    ),
}  # fmt: skip
