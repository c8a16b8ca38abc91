"""GLM-4 and GLM-4.5."""

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.config import Default
from ggufkit.architectures.families.deepseek import SHARED_EXPERTS
from ggufkit.architectures.families.parts import (
    ATTENTION,
    DENSE,
    GLM_CUTS,
    GLM_ROLES,
    HEAD_NORMS,
    MLP_FUSED,
    MOE,
    MTP,
    NEXTN_HEADS,
    NEXTN_SPLITS,
    QKV_BIAS,
    ROPE,
    WHOLE,
)  # fmt: skip
from ggufkit.architectures.family import MLP_EXPERTS, Family, Layers
from ggufkit.architectures.sizes import is_dense, is_mtp, is_sparse, n_embd, n_expert, n_ff, n_ff_2
from ggufkit.tokenizer import VocabKind

ATTENTION_ALONE = {name: ATTENTION[name] for name in ATTENTION if name != "ffn_norm.weight"}
GLM4 = Family(
    title="GLM-4 0414",
    classes=("Glm4ForCausalLM",),
    arch=MODEL_ARCH.GLM4,
    source="conversion/glm.py Glm4Model",
    rules=(*hp.COMMON, hp.FILE_TYPE, hp.rope_share),
    vocab=(VocabKind.BPE,),
    roles=(
        hp.added_token(Keys.Tokenizer.EOS_ID, "<|endoftext|>"),
        hp.added_token(Keys.Tokenizer.EOT_ID, "<|user|>"),
        hp.added_token(Keys.Tokenizer.UNK_ID, "<|endoftext|>"),
        hp.added_token(Keys.Tokenizer.BOS_ID, "<|endoftext|>"),
    ),
    whole=WHOLE,
    layers=(
        Layers(ATTENTION | {"ffn_up.weight": (n_ff_2, n_embd), "ffn_down.weight": (n_embd, n_ff)}),
        Layers({"post_attention_norm.weight": (n_embd,), "post_ffw_norm.weight": (n_embd,)}),
    ),
    optional=QKV_BIAS,
    pre_alias=GLM_CUTS,
    computes={"partial_rotary_factor": ANY},
    defaults=ROPE
    | {"head_dim": 128, "num_key_value_heads": 2, "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-07}
    | {"partial_rotary_factor": 0.5},
)

GLM_MOE_COMPUTES: dict[str, Values] = {"scoring_func": (None, "sigmoid")} | dict.fromkeys(
    ("partial_rotary_factor", "use_qk_norm", "first_k_dense_replace", "n_shared_experts", "routed_scaling_factor",
     "norm_topk_prob", "n_group", "topk_group"), ANY
)  # fmt: skip
GLM_MOE_DEFAULTS: dict[str, Default] = ROPE | {
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "partial_rotary_factor": 0.5,
    "moe_intermediate_size": 1408, "num_experts_per_tok": 8, "n_shared_experts": 1, "n_routed_experts": 128,
    "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": True,
}  # fmt: skip

GLM4_MOE = Family(
    title="GLM-4.5, 4.6, 4.7",
    classes=("Glm4MoeForCausalLM",),
    arch=MODEL_ARCH.GLM4_MOE,
    source="conversion/glm.py Glm4MoeModel",
    rules=(
        *hp.COMMON, hp.FILE_TYPE, hp.rope_share, hp.EXPERT_FEED_FORWARD,
        hp.u32(Keys.LLM.EXPERT_SHARED_COUNT, "n_shared_experts", low=0), hp.leading_dense,
        hp.fixed(Keys.LLM.EXPERT_GATING_FUNC, GGUFValueType.UINT32, 2),
        hp.f32(Keys.LLM.EXPERT_WEIGHTS_SCALE, "routed_scaling_factor"),
        hp.boolean(Keys.LLM.EXPERT_WEIGHTS_NORM, "norm_topk_prob", both=True), hp.mtp_layers,
    ),
    vocab=(VocabKind.BPE,),
    roles=GLM_ROLES,
    whole=WHOLE,
    layers=(
        Layers(ATTENTION_ALONE | {"post_attention_norm.weight": (n_embd,)}),
        Layers(HEAD_NORMS, lambda config, _: config.flag("use_qk_norm")),
        Layers(DENSE, is_dense), Layers(MOE | SHARED_EXPERTS, is_sparse), Layers(MTP, is_mtp),
    ),
    optional=QKV_BIAS | NEXTN_HEADS | {"exp_probs_b.bias": (n_expert,)},
    splits=MLP_FUSED | NEXTN_SPLITS,
    experts=MLP_EXPERTS,
    mtp={},
    pre_alias=GLM_CUTS,
    computes=GLM_MOE_COMPUTES,
    defaults=GLM_MOE_DEFAULTS,
)  # fmt: skip
