"""Sets of tensors and defaults that several families share."""

from gguf import Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import WINDOW, Values
from ggufkit.architectures.bends import (
    halves,
    renamed,
)
from ggufkit.architectures.config import Default
from ggufkit.architectures.family import Shape
from ggufkit.architectures.sizes import (
    head_dim,
    n_embd,
    n_embd_2,
    n_expert,
    n_ff,
    n_ff_expert,
    n_ff_expert_2,
    n_ff_shared,
    n_kv,
    n_q,
    n_vocab,
    one,
)

WHOLE: dict[str, Shape] = {
    "token_embd.weight": (n_vocab, n_embd),
    "output_norm.weight": (n_embd,),
    "output.weight": (n_vocab, n_embd),
}

TIED: dict[str, Shape] = {name: WHOLE[name] for name in ("token_embd.weight", "output_norm.weight")}

ATTENTION: dict[str, Shape] = {
    "attn_norm.weight": (n_embd,),
    "attn_q.weight": (n_q, n_embd),
    "attn_k.weight": (n_kv, n_embd),
    "attn_v.weight": (n_kv, n_embd),
    "attn_output.weight": (n_embd, n_q),
    "ffn_norm.weight": (n_embd,),
}

QKV_BIAS: dict[str, Shape] = {"attn_q.bias": (n_q,), "attn_k.bias": (n_kv,), "attn_v.bias": (n_kv,)}

HEAD_NORMS: dict[str, Shape] = {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}

DENSE: dict[str, Shape] = {
    "ffn_gate.weight": (n_ff, n_embd),
    "ffn_up.weight": (n_ff, n_embd),
    "ffn_down.weight": (n_embd, n_ff),
}

MOE: dict[str, Shape] = {
    "ffn_gate_inp.weight": (n_expert, n_embd),
    "ffn_gate_exps.weight": (n_expert, n_ff_expert, n_embd),
    "ffn_up_exps.weight": (n_expert, n_ff_expert, n_embd),
    "ffn_down_exps.weight": (n_expert, n_embd, n_ff_expert),
}

# gate and up in one stack, as llama.cpp multiplies them for some families
MOE_GATE_UP: dict[str, Shape] = {
    "ffn_gate_inp.weight": (n_expert, n_embd),
    "ffn_gate_up_exps.weight": (n_expert, n_ff_expert_2, n_embd),
    "ffn_down_exps.weight": (n_expert, n_embd, n_ff_expert),
}

FUSED = {
    "gate_up_proj": halves("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "down_proj": renamed("ffn_down_exps.weight"),
}

MLP_FUSED = {f"mlp.experts.{name}": split for name, split in FUSED.items()}

SHARED_EXPERT: dict[str, Shape] = {
    "ffn_gate_inp_shexp.weight": (one, n_embd),
    "ffn_gate_shexp.weight": (n_ff_shared, n_embd),
    "ffn_up_shexp.weight": (n_ff_shared, n_embd),
    "ffn_down_shexp.weight": (n_embd, n_ff_shared),
}

WINDOWED: dict[str, Values] = {"sliding_window": WINDOW}

ROPE: dict[str, Default] = {"rope_theta": 10000.0}

GLM_CUTS = {"dbrx": "glm4", "llama-bpe": "glm4"}
GLM_ROLES = (
    hp.added_token(Keys.Tokenizer.BOS_ID, "[gMASK]"),
    hp.added_token(Keys.Tokenizer.EOT_ID, "<|user|>"),
    hp.added_token(Keys.Tokenizer.UNK_ID, "<|endoftext|>"),
    hp.added_token(Keys.Tokenizer.EOM_ID, "<|observation|>"),
)
MTP_SPLITS = {
    "eh_proj": renamed("nextn.eh_proj.weight"),
    "enorm": renamed("nextn.enorm.weight"),
    "hnorm": renamed("nextn.hnorm.weight"),
    "shared_head.norm": renamed("nextn.shared_head_norm.weight"),
}

MTP: dict[str, Shape] = {
    "nextn.eh_proj.weight": (n_embd, n_embd_2),
    "nextn.enorm.weight": (n_embd,),
    "nextn.hnorm.weight": (n_embd,),
    "nextn.shared_head_norm.weight": (n_embd,),
}

NEXTN_SPLITS = MTP_SPLITS | {
    "embed_tokens": renamed("nextn.embed_tokens.weight"),
    "shared_head.head": renamed("nextn.shared_head_head.weight"),
}
NEXTN_HEADS = {"nextn.embed_tokens.weight": (n_vocab, n_embd), "nextn.shared_head_head.weight": (n_vocab, n_embd)}
