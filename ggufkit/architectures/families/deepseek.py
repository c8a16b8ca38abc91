"""DeepSeek: latent attention, dense leading layers, shared experts."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import (
    absorbed,
)
from ggufkit.architectures.config import deepseek_scoring, same_as
from ggufkit.architectures.families.parts import DENSE, MLP_FUSED, MOE, ROPE, WHOLE
from ggufkit.architectures.family import MLP_EXPERTS, Family, Layers, Shape
from ggufkit.architectures.sizes import (
    is_dense,
    is_sparse,
    kv_lora_rank,
    n_embd,
    n_expert,
    n_ff_shexp,
    n_head,
    n_head_v,
    n_kv_a,
    n_nope,
    n_o_mla,
    n_q_mla,
    q_lora_rank,
)
from ggufkit.tokenizer import VocabKind

SHARED_EXPERTS: dict[str, Shape] = {
    "ffn_gate_shexp.weight": (n_ff_shexp, n_embd),
    "ffn_up_shexp.weight": (n_ff_shexp, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_shexp),
}

MLA: dict[str, Shape] = {
    "attn_norm.weight": (n_embd,),
    "attn_kv_a_mqa.weight": (n_kv_a, n_embd),
    "attn_kv_a_norm.weight": (kv_lora_rank,),
    "attn_k_b.weight": (n_head, kv_lora_rank, n_nope),
    "attn_v_b.weight": (n_head, n_head_v, kv_lora_rank),
    "attn_output.weight": (n_embd, n_o_mla),
    "ffn_norm.weight": (n_embd,),
}

Q_WHOLE: dict[str, Shape] = {"attn_q.weight": (n_q_mla, n_embd)}

Q_LORA: dict[str, Shape] = {
    "attn_q_a.weight": (q_lora_rank, n_embd),
    "attn_q_a_norm.weight": (q_lora_rank,),
    "attn_q_b.weight": (n_q_mla, q_lora_rank),
}

DEEPSEEK_EXPERTS = (
    hp.u32(Keys.LLM.EXPERT_SHARED_COUNT, "n_shared_experts", low=0),
    hp.f32(Keys.LLM.EXPERT_WEIGHTS_SCALE, "routed_scaling_factor"),
    hp.boolean(Keys.LLM.EXPERT_WEIGHTS_NORM, "norm_topk_prob"),
)

DEEPSEEK_COMPUTES: dict[str, Values] = dict.fromkeys((
    "kv_lora_rank", "q_lora_rank", "first_k_dense_replace", "n_shared_experts", "routed_scaling_factor", "n_group",
    "topk_group", "topk_method", "norm_topk_prob", "scoring_func", "mscale", "mscale_all_dim",
), ANY)  # fmt: skip

MLA_LAYERS = (
    Layers(MLA),
    Layers(Q_WHOLE, lambda config, _: config.get("q_lora_rank") is None),
    Layers(Q_LORA, lambda config, _: config.get("q_lora_rank") is not None),
    Layers(DENSE, is_dense),
    Layers(MOE | SHARED_EXPERTS, is_sparse),
)

DEEPSEEK = Family(
    title="DeepSeek V2, V3, R1",
    classes=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
    arch=MODEL_ARCH.DEEPSEEK2,
    source="conversion/deepseek.py DeepseekV2Model",
    rules=(
        *hp.COMMON,
        hp.fixed(Keys.Attention.HEAD_COUNT_KV, GGUFValueType.UINT32, 1),
        hp.FILE_TYPE,
        hp.leading_dense,
        hp.VOCAB_SIZE,
        hp.query_rank,
        hp.latent_attention,
        hp.EXPERT_FEED_FORWARD,
        *DEEPSEEK_EXPERTS,
        hp.u32(Keys.Rope.DIMENSION_COUNT, "qk_rope_head_dim"),
        hp.yarn_log_multiplier,
    ),
    vocab=(VocabKind.BPE,),
    whole=WHOLE,
    layers=MLA_LAYERS,
    optional={"exp_probs_b.bias": (n_expert,)},
    splits=MLP_FUSED | {"self_attn.kv_b_proj": absorbed(n_head, n_nope, "attn_k_b.weight", "attn_v_b.weight")},
    beyond="the block that guesses further tokens: llama.cpp does not run it for this family",
    experts=MLP_EXPERTS,
    defaults=ROPE
    | {"rms_norm_eps": 1e-6, "head_dim": same_as("qk_rope_head_dim"), "scoring_func": deepseek_scoring}
    | {"num_experts_per_tok": 8, "moe_intermediate_size": 1407, "n_shared_experts": 2},
    computes=DEEPSEEK_COMPUTES,
)
