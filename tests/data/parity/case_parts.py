"""What the cases share: sizes, tokenizers and the builders of a case."""

from vocabularies import GPT2, bpe, special, split

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
SPM_CONFIG = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPM = {"tokenizer_config.json": SPM_CONFIG | {"add_bos_token": True, "add_eos_token": False, "legacy": True}}
CHAT = "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"


def config(kind, name, **more):
    return {"architectures": [name], "model_type": kind} | SIZES | {"bos_token_id": 1, "eos_token_id": 2} | more


def case(config, *, vocabulary="spm.model", files=SPM, pre="default", dtype="BF16", n_shards=1, **more):
    how = {"vocabulary": vocabulary, "pre": pre, "dtype": dtype, "n_shards": n_shards, **more}
    return {"config": config, "files": files} | how


def bpe_case(config, tokenizer, pre, tokenizer_config, **more):
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer_config} | more.pop("files", {})
    return case(config, vocabulary="bpe.json", files=files, pre=pre, **more)


ENDS = {"bos_token_id": 640, "eos_token_id": 641}
LLAMA3_TOKENS = special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>")
LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 128,
    "rope_type": "llama3",
}
QWEN_TOKENS = special("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_CONFIG = {
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "chat_template": "{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}",
}
QWEN = bpe(split("qwen2"), QWEN_TOKENS, normalizer={"type": "NFC"}, post_processor=GPT2 | {"trim_offsets": False})
QWEN_ENDS = {"bos_token_id": 640, "eos_token_id": 642, "vocab_size": 656, "rms_norm_eps": 1e-6}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GEMMA = {
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 480, "rms_norm_eps": 1e-6, "sliding_window": 16,
    "hidden_activation": "gelu_pytorch_tanh", "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
GEMMA_FILES = {
    "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                              "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
                              "chat_template": CHAT},
}  # fmt: skip
MLA = {
    "vocab_size": 656, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "moe_layer_freq": 1, "hidden_act": "silu",
}  # fmt: skip
DEEPSEEK_TOKENS = special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>")
DEEPSEEK_CONFIG = {
    "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "add_eos_token": False,
    "bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "chat_template": CHAT,
}  # fmt: skip
DELTA = {
    "num_key_value_heads": 2, "head_dim": 32, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"], "hidden_act": "silu",
}  # fmt: skip
QWEN35 = bpe(split("qwen35"), QWEN_TOKENS, normalizer={"type": "NFC"}, post_processor=GPT2 | {"trim_offsets": False})
QWEN35_ROPE = {
    "rope_parameters": {"mrope_interleaved": True, "mrope_section": [2, 1, 1], "rope_type": "default",
                        "rope_theta": 1e7, "partial_rotary_factor": 0.25},
}  # fmt: skip
STARCODER = bpe(
    {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]},
    special("<|endoftext|>", "<fim_prefix>"), post_processor=GPT2,
)  # fmt: skip
STARCODER_CONFIG = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
COHERE = bpe(
    {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]},
    special("<BOS_TOKEN>", "<|END|>"), normalizer={"type": "NFC"},
)  # fmt: skip
COHERE_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<BOS_TOKEN>", "eos_token": "<|END|>",
    "add_bos_token": True,
}  # fmt: skip
GLM_TOKENS = special("<|endoftext|>", "<|user|>", "[gMASK]", "<|observation|>")
GLM_CONFIG = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "bos_token": None, "chat_template": CHAT}
PHI_SPACES = [(" " * n, False, True) for n in (5, 4, 3, 2)] + [("\t\t", False, True)]
