"""Shapes of real models, without weights: the tensors that their GGUF files hold."""

from dataclasses import dataclass

from ggufkit.formats.model import Hparams, Model, ModelTensor


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one model. `is_fused`: q, k and v in one matrix and an ungated feed-forward, as Phi-2 has them."""

    arch: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    n_expert: int = 0
    n_ctx: int = 4096
    is_fused: bool = False
    is_tied: bool = False


SHAPES = {
    "mixtral-8x7b": Shape("llama", 32, 4096, 14336, 32, 8, 32000, n_expert=8, n_ctx=32768),
    "mixtral-8x22b": Shape("llama", 56, 6144, 16384, 48, 8, 32000, n_expert=8, n_ctx=65536),
    "llama-2-7b": Shape("llama", 32, 4096, 11008, 32, 32, 32000),
    "llama-2-70b": Shape("llama", 80, 8192, 28672, 64, 8, 32000),
    "llama-65b": Shape("llama", 80, 8192, 22016, 64, 64, 32000, n_ctx=2048),
    "mistral-7b": Shape("llama", 32, 4096, 14336, 32, 8, 32000, n_ctx=32768),
    "phi-2": Shape("phi2", 32, 2560, 10240, 32, 32, 51200, n_ctx=2048, is_fused=True),
    "llama-3.2-1b": Shape("llama", 16, 2048, 8192, 32, 8, 128256, n_ctx=131072, is_tied=True),
    "qwen2-7b": Shape("qwen2", 28, 3584, 18944, 28, 4, 152064, n_ctx=32768),
    "qwen3-30b-a3b": Shape("qwen3moe", 48, 2048, 768, 32, 4, 151936, n_expert=128, n_ctx=40960),
    "odd-rows": Shape("llama", 24, 2080, 5504, 20, 4, 32000),
    "falcon-7b": Shape("falcon", 32, 4544, 18176, 71, 1, 65024, is_fused=True),
}


def tensors_of(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes (numpy order) in the order that converters store them."""
    tensors: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (shape.n_vocab, shape.n_embd))]
    for layer in range(shape.n_layer):
        tensors += [(f"blk.{layer}.{name}", dims) for name, dims in _layer(shape)]
    tensors.append(("output_norm.weight", (shape.n_embd,)))
    if not shape.is_tied:
        tensors.append(("output.weight", (shape.n_vocab, shape.n_embd)))
    return tensors


def _layer(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    n_embd, n_ff = shape.n_embd, shape.n_ff
    n_kv = n_embd // shape.n_head * shape.n_head_kv
    rows: list[tuple[str, tuple[int, ...]]] = [
        ("attn_norm.weight", (n_embd,)),
        ("attn_output.weight", (n_embd, n_embd)),
    ]
    if shape.is_fused:
        rows += [("attn_qkv.weight", (n_embd + 2 * n_kv, n_embd)), ("attn_qkv.bias", (n_embd + 2 * n_kv,))]
        return [*rows, ("ffn_up.weight", (n_ff, n_embd)), ("ffn_down.weight", (n_embd, n_ff))]
    rows += [("attn_q.weight", (n_embd, n_embd)), ("attn_k.weight", (n_kv, n_embd)), ("attn_v.weight", (n_kv, n_embd))]
    rows.append(("ffn_norm.weight", (n_embd,)))
    stack: tuple[int, ...] = (shape.n_expert,) if shape.n_expert else ()
    suffix = "_exps" if shape.n_expert else ""
    if shape.n_expert:
        rows.append(("ffn_gate_inp.weight", (shape.n_expert, n_embd)))
    return [
        *rows,
        (f"ffn_gate{suffix}.weight", (*stack, n_ff, n_embd)),
        (f"ffn_up{suffix}.weight", (*stack, n_ff, n_embd)),
        (f"ffn_down{suffix}.weight", (*stack, n_embd, n_ff)),
    ]


def model_of(shape: Shape, dtype: str = "BF16") -> Model:
    """A Model of that shape whose tensors lie nowhere."""
    hparams = Hparams(
        arch=shape.arch,
        n_layer=shape.n_layer,
        n_embd=shape.n_embd,
        n_head=shape.n_head,
        n_head_kv=shape.n_head_kv,
        n_expert=shape.n_expert,
        n_ctx_train=shape.n_ctx,
        n_vocab=shape.n_vocab,
        head_dim_k=shape.n_embd // shape.n_head,
        head_dim_v=shape.n_embd // shape.n_head,
    )
    tensors = tuple(
        ModelTensor(name, dims, dtype, (), keep_f32=len(dims) == 1 or "ffn_gate_inp" in name)
        for name, dims in tensors_of(shape)
    )
    return Model(hparams, (), tensors)
