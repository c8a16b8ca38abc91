"""What each case is: config.json and the tokenizer's files, as people have them, in small."""

from case_parts import *
from hybrid_checkpoints import HYBRIDS
from more_checkpoints import MORE
from vocabularies import GPT2, bpe, special, split, template

CASES = {
    # Llama 1: a config of 2023, without heads for keys, RoPE base or a tokenizer_config.json that says much
    "llama-1-7b": case(
        config("llama", "LlamaForCausalLM", rms_norm_eps=1e-6, vocab_size=480, torch_dtype="float16"),
        files={"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}},
        dtype="F16",
    ),
    # grouped heads, biases, linear RoPE scaling, padded vocabulary, added tokens, float32
    "llama-2-70b-chat-hf": case(
        config(
            "llama", "LlamaForCausalLM", num_key_value_heads=2, vocab_size=512, rope_theta=10000.0,
            rope_scaling={"type": "linear", "factor": 4.0}, attention_bias=True, rms_norm_eps=1e-5,
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"] | {"chat_template": CHAT, "add_prefix_space": False},
            "added_tokens.json": {"<pad>": 480, "<custom>": 481, "<outside>": 512},
        },
        dtype="F32",
    ),
    "llama-3.2-1b-instruct": bpe_case(
        config(
            "llama", "LlamaForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=500000.0, head_dim=32,
            rope_scaling=LLAMA3_ROPE, tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=640,
            eos_token_id=[641, 642],
        ),
        bpe(split("cl100k"), LLAMA3_TOKENS, ignore_merges=True, post_processor=template("<|begin_of_text|>")),
        "llama-bpe",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": CHAT},
        files={"generation_config.json": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40}},
    ),
    "code-llama-7b-hf": case(
        config(
            "llama", "LlamaForCausalLM", hidden_size=16, num_attention_heads=2, vocab_size=32016, rope_theta=1e6,
            intermediate_size=32, rms_norm_eps=1e-5,
        ),
    ),
    # the same vocabulary as a tokenizer.json alone
    "tinyllama-1.1b": case(
        config("llama", "LlamaForCausalLM", num_key_value_heads=1, vocab_size=480, rms_norm_eps=1e-5),
        vocabulary="llama_hf.json",
        files={
            "tokenizer.json": {
                "version": "1.0",
                "added_tokens": [
                    {"id": i, "content": text, "special": True, "normalized": False, "single_word": False,
                     "lstrip": False, "rstrip": False}
                    for i, text in enumerate(("<unk>", "<s>", "</s>"))
                ],
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Prepend", "prepend": "▁"},
                        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                    ],
                },
                "pre_tokenizer": None,
                "post_processor": None,
                "decoder": {
                    "type": "Sequence",
                    "decoders": [
                        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                        {"type": "ByteFallback"},
                        {"type": "Fuse"},
                        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                    ],
                },
                "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
            },
        } | SPM,
    ),
    "mistral-7b-v0.1": case(
        config(
            "mistral", "MistralForCausalLM", num_key_value_heads=2, vocab_size=480, sliding_window=16,
            rope_theta=10000.0, rms_norm_eps=1e-5,
        ),
    ),
    # v0.3: named templates, control tokens declared in tokenizer_config.json
    "mistral-7b-instruct-v0.3": case(
        config(
            "mistral", "MistralForCausalLM", num_key_value_heads=2, vocab_size=512, sliding_window=None,
            rope_theta=1e6, rms_norm_eps=1e-5, head_dim=16,
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"] | {
                "added_tokens_decoder": {
                    str(480 + i): {"content": text, "special": is_special, "lstrip": False, "rstrip": False,
                                   "normalized": False, "single_word": False}
                    for i, (text, is_special) in enumerate((("[INST]", True), ("[/INST]", True), ("▁my▁word", False)))
                },
                "chat_template": [{"name": "default", "template": CHAT}, {"name": "tool-use", "template": CHAT + "!"}],
            },
        },
    ),
    # tekken, heads wider than the embedding's share
    "mistral-nemo-12b": bpe_case(
        config(
            "mistral", "MistralForCausalLM", num_key_value_heads=2, vocab_size=656, sliding_window=None,
            rope_theta=1e6, rms_norm_eps=1e-5, head_dim=32, **ENDS,
        ),
        bpe(split("tekken"), special("<s>", "</s>", "[INST]"), ignore_merges=True, post_processor=template("<s>")),
        "tekken",
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    ),
    "mixtral-8x7b-instruct-v0.1": case(
        config(
            "mixtral", "MixtralForCausalLM", num_key_value_heads=2, vocab_size=480, num_local_experts=4,
            num_experts_per_tok=2, rope_theta=1e6, rms_norm_eps=1e-5, sliding_window=None, intermediate_size=32,
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"],
            "chat_template.jinja": CHAT,
            "README.md": "---\nlicense: apache-2.0\nlanguage:\n- fr\n- en\n- no\n"
            "base_model: mistralai/Mixtral-8x7B-v0.1\ntags:\n- moe\n---\n# A model\n",
        },
        n_shards=3,
    ),
    "phi-2": bpe_case(
        config(
            "phi", "PhiForCausalLM", vocab_size=672, partial_rotary_factor=0.5, layer_norm_eps=1e-5,
            intermediate_size=256, bos_token_id=640, eos_token_id=640, hidden_act="gelu_new",
        ),
        bpe(GPT2, [*special("<|endoftext|>"), *PHI_SPACES], post_processor=GPT2, merges_as_text=True),
        "phi-2",
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
        dtype="F16",
    ),
    "phi-3-mini-128k-instruct": case(
        config(
            "phi3", "Phi3ForCausalLM", num_key_value_heads=2, vocab_size=496, original_max_position_embeddings=256,
            max_position_embeddings=1024,
            rope_theta=10000.0, rms_norm_eps=1e-5, sliding_window=32, pad_token_id=480, eos_token_id=480,
            rope_scaling={
                "type": "longrope",
                "long_factor": [1.0, 1.1, 1.3, 1.7, 2.5, 4.0, 7.0, 12.0],
                "short_factor": [1.0, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5],
            },
        ),
        files={
            "tokenizer_config.json": SPM["tokenizer_config.json"]
            | {"eos_token": "<|endoftext|>", "chat_template": CHAT},
            "added_tokens.json": {"<|endoftext|>": 480, "<|user|>": 481},
            "tokenizer.json": {
                "added_tokens": [
                    {"id": 480, "content": "<|endoftext|>", "special": True},
                    {"id": 481, "content": "<|user|>", "special": False},
                    {"id": 482, "content": "▁x", "special": False},
                ],
            },
        },
    ),
    # cl100k as another converter writes it: what is between matches is removed, inverted
    "phi-4": bpe_case(
        config(
            "phi3", "Phi3ForCausalLM", num_key_value_heads=2, vocab_size=656, original_max_position_embeddings=256,
            rope_theta=250000.0, rms_norm_eps=1e-5, pad_token_id=640, **ENDS,
        ),
        bpe(split("cl100k", behavior="Removed", invert=True), special("<|endoftext|>", "<|im_end|>")),
        "dbrx",
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    ),
    "qwen2.5-7b-instruct": bpe_case(
        config(
            "qwen2", "Qwen2ForCausalLM", num_key_value_heads=2, rope_theta=1e6, tie_word_embeddings=True,
            rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, **QWEN_ENDS,
        ),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
        files={"generation_config.json": {"repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20}},
    ),
    "qwen1.5-moe-a2.7b": bpe_case(
        config(
            "qwen2_moe", "Qwen2MoeForCausalLM", num_key_value_heads=4, rope_theta=1e6,
            shared_expert_intermediate_size=64, **MOE | {"norm_topk_prob": False}, **QWEN_ENDS,
        ),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
        n_shards=2,
    ),
    "qwen3-8b": bpe_case(
        config("qwen3", "Qwen3ForCausalLM", num_key_value_heads=2, head_dim=32, rope_theta=1e6, **QWEN_ENDS),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
    ),
    "qwen3-30b-a3b": bpe_case(
        config(
            "qwen3_moe", "Qwen3MoeForCausalLM", num_key_value_heads=2, head_dim=32, rope_theta=1e6, **MOE, **QWEN_ENDS,
        ),
        QWEN,
        "qwen2",
        QWEN_CONFIG,
    ),
    "olmoe-1b-7b-0924": bpe_case(
        config(
            "olmoe", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2, intermediate_size=32, vocab_size=656,
            rope_theta=10000.0, eos_token_id=640, bos_token_id=None, pad_token_id=641, norm_topk_prob=False,
        ),
        bpe(GPT2, special("<|endoftext|>", "<|padding|>"), normalizer={"type": "NFC"}, post_processor=GPT2),
        "olmo",
        {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|padding|>", "unk_token": None},
    ),
    # norms stored as the distance from 1, soft caps, norms behind attention and feed-forward
    "gemma-2-2b-it": case(
        config("gemma2", "Gemma2ForCausalLM", **GEMMA, query_pre_attn_scalar=32, attn_logit_softcapping=50.0,
               final_logit_softcapping=30.0, rope_theta=10000.0),
        vocabulary="spm_bare.model",
        files=GEMMA_FILES,
    ),
    "gemma-3-1b-it": case(
        config("gemma3_text", "Gemma3ForCausalLM", **GEMMA, query_pre_attn_scalar=32, rope_theta=1e6,
               rope_local_base_freq=10000),
        vocabulary="spm_bare.model",
        files=GEMMA_FILES,
    ),
    # sees too: the language model lies in text_config and under language_model
    "gemma-3-4b-it": case(
        {
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "bos_token_id": 2,
            "eos_token_id": [1, 106], "mm_tokens_per_image": 4, "image_token_index": 470,
            "text_config": SIZES | GEMMA | {
                "model_type": "gemma3_text", "query_pre_attn_scalar": 32, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16,
                              "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 2},
        },
        vocabulary="spm_bare.model",
        files=GEMMA_FILES,
    ),
    # latent attention, dense first layer, shared experts; queries in one piece, which llama.cpp takes of 26 layers alone
    "deepseek-v2-lite": bpe_case(
        config("deepseek_v2", "DeepseekV2ForCausalLM", **MLA, num_hidden_layers=26, q_lora_rank=None,
               n_routed_experts=2, num_experts_per_tok=1, n_shared_experts=2, moe_intermediate_size=32,
               first_k_dense_replace=1,
               routed_scaling_factor=1.0, norm_topk_prob=False, scoring_func="softmax", topk_method="greedy",
               rope_theta=10000,
               rope_scaling={"beta_fast": 32, "beta_slow": 1, "factor": 4, "mscale": 0.707, "mscale_all_dim": 0.707,
                             "original_max_position_embeddings": 64, "type": "yarn"}, **ENDS),
        bpe(split("lines", "cased", "marks", "end", "han", digits=True), DEEPSEEK_TOKENS, post_processor=GPT2),
        "deepseek-llm",
        DEEPSEEK_CONFIG,
    ),
    "deepseek-v3": bpe_case(
        config("deepseek_v3", "DeepseekV3ForCausalLM", **MLA, num_hidden_layers=2, q_lora_rank=24, n_routed_experts=8,
               num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32, first_k_dense_replace=1,
               routed_scaling_factor=2.5, norm_topk_prob=True, scoring_func="sigmoid", topk_method="noaux_tc", n_group=4,
               topk_group=2, num_nextn_predict_layers=1, rope_theta=10000,
               rope_scaling={"beta_fast": 32, "beta_slow": 1, "factor": 4, "mscale": 1.0, "mscale_all_dim": 1.0,
                             "original_max_position_embeddings": 64, "type": "yarn"}, **ENDS),
        bpe(split("numbers", "cjk", "deepseek"), DEEPSEEK_TOKENS, post_processor=GPT2),
        "deepseek-v3",
        DEEPSEEK_CONFIG,
        n_shards=2,
    ),
    # linear attention with more heads of values than of keys, one block that guesses further tokens
    "qwen3-next-80b-a3b-instruct": bpe_case(
        config("qwen3_next", "Qwen3NextForCausalLM", **DELTA, **MOE, shared_expert_intermediate_size=32, rope_theta=1e7,
               partial_rotary_factor=0.25, decoder_sparse_step=1, mlp_only_layers=[], **QWEN_ENDS),
        QWEN, "qwen2", QWEN_CONFIG, mtp=True,
    ),
    "qwen3.5-4b": bpe_case(
        {
            "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "tie_word_embeddings": True,
            "image_token_id": 650, "video_token_id": 651, "vision_start_token_id": 652, "vision_end_token_id": 653,
            "text_config": SIZES | DELTA | QWEN_ENDS | QWEN35_ROPE | {"model_type": "qwen3_5_text", "tie_word_embeddings": True,
                                                                     "mtp_num_hidden_layers": 1},
            "vision_config": {"model_type": "qwen3_5", "hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2,
                              "patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 16},
        },
        QWEN35, "qwen35", QWEN_CONFIG, mtp=True,
    ),
    "qwen3.5-35b-a3b": bpe_case(
        config("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", **DELTA, **MOE, **QWEN35_ROPE, shared_expert_intermediate_size=32,
               mtp_num_hidden_layers=1, **QWEN_ENDS),
        QWEN35, "qwen35", QWEN_CONFIG, mtp=True,
    ),
    "gpt-oss-20b": bpe_case(
        config("gpt_oss", "GptOssForCausalLM", num_key_value_heads=2, head_dim=32, num_local_experts=4, num_experts_per_tok=2,
               sliding_window=8, vocab_size=656, rms_norm_eps=1e-5, rope_theta=150000, intermediate_size=64,
               layer_types=["sliding_attention", "full_attention"], swiglu_limit=7.0, attention_bias=True,
               rope_scaling={"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 64,
                             "rope_type": "yarn"}, **ENDS),
        bpe(split("o200k"), special("<|startoftext|>", "<|return|>", "<|channel|>"), ignore_merges=True),
        "gpt-4o",
        {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "chat_template": CHAT},
    ),
    # every fourth layer without RoPE
    "smollm3-3b": bpe_case(
        config("smollm3", "SmolLM3ForCausalLM", num_hidden_layers=4, num_key_value_heads=2, vocab_size=656, rope_theta=5e6,
               no_rope_layers=[1, 1, 1, 0], no_rope_layer_interval=4, pad_token_id=641, rms_norm_eps=1e-6, tie_word_embeddings=True, **ENDS),
        bpe(split("cl100k"), LLAMA3_TOKENS, ignore_merges=True),
        "llama-bpe", {"bos_token": None, "eos_token": "<|end_of_text|>", "chat_template": CHAT},
    ),
    "granite-3.3-2b-instruct": bpe_case(
        config("granite", "GraniteForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=1e7, rms_norm_eps=1e-5,
               attention_multiplier=0.015625, embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0,
               tie_word_embeddings=True, **ENDS),
        STARCODER, "refact", STARCODER_CONFIG,
    ),
    "granite-3.1-3b-a800m-instruct": bpe_case(
        config("granitemoe", "GraniteMoeForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=10000.0, rms_norm_eps=1e-6,
               attention_multiplier=0.0625, embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=6.0,
               num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, tie_word_embeddings=True, **ENDS),
        STARCODER, "refact", STARCODER_CONFIG,
    ),
    "granite-moe-shared": bpe_case(
        config("granitemoeshared", "GraniteMoeSharedForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=10000.0,
               rms_norm_eps=1e-6, attention_multiplier=0.0625, embedding_multiplier=12.0, residual_multiplier=0.22,
               logits_scaling=6.0, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32,
               shared_intermediate_size=64, tie_word_embeddings=True, **ENDS),
        STARCODER, "refact", STARCODER_CONFIG,
    ),
    "ministral-3-3b": bpe_case(
        {
            "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 650,
            "spatial_merge_size": 2, "tie_word_embeddings": True,
            "text_config": SIZES | ENDS | {
                "model_type": "ministral3", "num_key_value_heads": 2, "vocab_size": 656, "head_dim": 32, "rms_norm_eps": 1e-5,
                "tie_word_embeddings": True,
                "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1,
                                    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 64,
                                    "rope_theta": 1e6, "rope_type": "yarn", "type": "yarn"},
            },
            "vision_config": {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                              "num_attention_heads": 2, "image_size": 8, "patch_size": 2, "head_dim": 8},
        },
        bpe(split("tekken"), special("<s>", "</s>", "[INST]"), ignore_merges=True, post_processor=template("<s>")),
        "tekken", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    ),
    "mistral-small-3.2-24b": bpe_case(
        {
            "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 650,
            "spatial_merge_size": 2, "tie_word_embeddings": False,
            "text_config": SIZES | ENDS | {"model_type": "mistral", "num_key_value_heads": 2, "vocab_size": 656, "head_dim": 32,
                                           "rms_norm_eps": 1e-5, "rope_theta": 1e9, "sliding_window": None, "tie_word_embeddings": False},
            "vision_config": {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                              "num_attention_heads": 2, "image_size": 8, "patch_size": 2, "head_dim": 8},
        },
        bpe(split("tekken"), special("<s>", "</s>", "[INST]"), ignore_merges=True, post_processor=template("<s>")),
        "tekken", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    ),
    "glm-4-9b-0414": bpe_case(
        config("glm4", "Glm4ForCausalLM", num_key_value_heads=2, vocab_size=656, head_dim=16, rope_theta=10000.0,
               partial_rotary_factor=0.5, attention_bias=True, rms_norm_eps=1e-5, pad_token_id=640, eos_token_id=[640, 641],
               bos_token_id=None),
        bpe(split("cl100k"), GLM_TOKENS), "glm4", GLM_CONFIG,
    ),
    "glm-4.5-air": bpe_case(
        config("glm4_moe", "Glm4MoeForCausalLM", num_key_value_heads=2, vocab_size=656, head_dim=16, rope_theta=1e6,
               partial_rotary_factor=0.5, attention_bias=True, rms_norm_eps=1e-5, n_routed_experts=4, n_shared_experts=1,
               num_experts_per_tok=2, moe_intermediate_size=32, first_k_dense_replace=1, n_group=1, topk_group=1,
               routed_scaling_factor=1.5, norm_topk_prob=True, use_qk_norm=True, num_nextn_predict_layers=1,
               eos_token_id=[640, 641], bos_token_id=None),
        bpe(split("cl100k"), GLM_TOKENS), "glm4", GLM_CONFIG, mtp="glm",
    ),
    "olmo-2-1124-7b": bpe_case(
        config("olmo2", "Olmo2ForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=500000.0, rms_norm_eps=1e-6,
               eos_token_id=640, bos_token_id=None, pad_token_id=641),
        bpe(split("cl100k"), special("<|endoftext|>", "<|pad|>")), "dbrx", {"bos_token": None, "eos_token": "<|endoftext|>"},
    ),
    "olmo-3-7b": bpe_case(
        config("olmo3", "Olmo3ForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=500000.0, rms_norm_eps=1e-6,
               sliding_window=8, layer_types=["sliding_attention", "full_attention"], eos_token_id=640, bos_token_id=None),
        bpe(split("cl100k"), special("<|endoftext|>", "<|pad|>")), "dbrx", {"bos_token": None, "eos_token": "<|endoftext|>"},
    ),
    "c4ai-command-r-v01": bpe_case(
        config("cohere", "CohereForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=8e6, layer_norm_eps=1e-5,
               logit_scale=0.0625, use_qk_norm=False, model_max_length=512, tie_word_embeddings=True, **ENDS),
        COHERE, "command-r", COHERE_CONFIG,
    ),
    "command-r7b-12-2024": bpe_case(
        config("cohere2", "Cohere2ForCausalLM", num_hidden_layers=4, num_key_value_heads=2, vocab_size=656, rope_theta=50000,
               layer_norm_eps=1e-5, logit_scale=0.25, rotary_pct=1.0, sliding_window=8, head_dim=16, tie_word_embeddings=True,
               layer_types=["sliding_attention"] * 3 + ["full_attention"], **ENDS),
        COHERE, "command-r", COHERE_CONFIG,
    ),
    "minimax-m2": bpe_case(
        config("minimax_m2", "MiniMaxM2ForCausalLM", num_key_value_heads=2, head_dim=16, vocab_size=656, rope_theta=5e6, rotary_dim=8,
               rms_norm_eps=1e-6, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, scoring_func="sigmoid",
               use_routing_bias=True, use_qk_norm=True, qk_norm_type="per_layer", **ENDS),
        bpe(split("o200k"), special("]~!b[", "[e~[", "]~b]")), "minimax-m2", {"bos_token": "]~!b[", "eos_token": "[e~["},
    ),
    "seed-oss-36b-instruct": bpe_case(
        config("seed_oss", "SeedOssForCausalLM", num_key_value_heads=2, head_dim=32, vocab_size=656, rope_theta=1e7,
               rms_norm_eps=1e-6, attention_bias=True, attention_out_bias=False, mlp_bias=False, **ENDS),
        bpe(split("seed"), special("<seed:bos>", "<seed:eos>")), "seed-coder", {"bos_token": "<seed:bos>", "eos_token": "<seed:eos>"},
    ),
    "starcoder2-3b": bpe_case(
        config("starcoder2", "Starcoder2ForCausalLM", num_key_value_heads=2, vocab_size=656, rope_theta=999999.4, norm_epsilon=1e-5,
               use_bias=True, sliding_window=64, hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True, eos_token_id=640,
               bos_token_id=640),
        STARCODER, "starcoder", STARCODER_CONFIG,
    ),
}  # fmt: skip

# the same models in the few bits that they are published in
CASES["gpt-oss-120b"] = CASES["gpt-oss-20b"] | {
    "config": CASES["gpt-oss-20b"]["config"]
    | {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
}
CASES["deepseek-r1"] = CASES["deepseek-v3"] | {
    "config": CASES["deepseek-v3"]["config"]
    | {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 32]}},
    "dtype": "FP8",
}

CASES |= MORE | HYBRIDS
