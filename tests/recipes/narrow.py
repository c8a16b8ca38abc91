"""Narrow random models as GGUF files: many layers, few and short rows, so that every layer rule is met in a second.

Knows which metadata llama.cpp asks for before it quantizes. Row counts need not fit the head counts: the quantizer
looks at rows only.
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

F32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Narrow:
    """Sizes of one narrow model.

    n_gqa     query heads for each key head
    dtype     that the matrices are stored in: F32, F16, BF16 or Q8_0
    is_fused  q, k and v in one matrix and an ungated feed-forward, as Phi-2 has them
    """

    arch: str = "llama"
    n_layer: int = 8
    n_embd: int = 256
    n_ff: int = 256
    n_gqa: int = 1
    n_expert: int = 0
    dtype: str = "F32"
    is_tied: bool = False
    is_fused: bool = False
    n_vocab: int = 6
    n_rows: int = 3

    @property
    def n_head(self) -> int:
        return 8


def write_narrow(path: Path, narrow: Narrow, seed: int = 0) -> Path:
    """Write the model; the same bytes for the same arguments."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, narrow.arch)
    _write_metadata(writer, narrow)
    for name, shape in _tensors(narrow):
        w = (rng.standard_normal(shape) * rng.gamma(1.0, 0.3, shape[-1])).astype(np.float32)
        is_matrix = len(shape) > 1 and "ffn_gate_inp" not in name
        qtype = gguf.GGMLQuantizationType[narrow.dtype if is_matrix else "F32"]
        blocks = gguf.quantize(w, qtype)
        if narrow.dtype == "Q8_0" and is_matrix:
            blocks = _halved(blocks)
        writer.add_tensor(name, blocks, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _halved(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Q8_0 blocks (f16 scale, 32 x i8) whose levels stop at 63: no encoder makes them again from their values."""
    cells = blocks.reshape(-1, 34).copy()
    cells[:, 2:] = (cells[:, 2:].view(np.int8) // 2).view(np.uint8)
    return cells.reshape(blocks.shape)


def importance_for(narrow: Narrow, seed: int = 1) -> dict[str, F32Array]:
    """Mean squared activations for every matrix but token_embd: (n_per_row,) or (n_expert, n_per_row)."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.gamma(0.5, 2.0, (*shape[:-2], shape[-1])).astype(np.float32)
        for name, shape in _tensors(narrow)
        if len(shape) > 1 and name != "token_embd.weight"
    }


def _write_metadata(writer: gguf.GGUFWriter, narrow: Narrow) -> None:
    writer.add_name("narrow")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)  # not last, so that its move to the end is seen
    writer.add_context_length(128)
    writer.add_embedding_length(narrow.n_embd)
    writer.add_block_count(narrow.n_layer)
    writer.add_feed_forward_length(narrow.n_ff)
    writer.add_head_count(narrow.n_head)
    writer.add_head_count_kv(narrow.n_head // narrow.n_gqa)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_dimension_count(narrow.n_embd // narrow.n_head)
    if narrow.n_expert:
        writer.add_expert_count(narrow.n_expert)
        writer.add_expert_used_count(2)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(narrow.n_vocab)])
    writer.add_token_scores([0.5 * i for i in range(narrow.n_vocab)])
    writer.add_token_types([1] * narrow.n_vocab)
    writer.add_add_bos_token(True)


def _tensors(narrow: Narrow) -> list[tuple[str, tuple[int, ...]]]:
    tensors: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (narrow.n_vocab, narrow.n_embd))]
    if not narrow.is_tied:
        tensors.append(("output.weight", (narrow.n_vocab, narrow.n_embd)))
    tensors.append(("output_norm.weight", (narrow.n_embd,)))
    for layer in range(narrow.n_layer):
        tensors += [(f"blk.{layer}.{name}", shape) for name, shape in _layer(narrow)]
    return tensors


def _layer(narrow: Narrow) -> list[tuple[str, tuple[int, ...]]]:
    n_rows, n_embd, n_ff = narrow.n_rows, narrow.n_embd, narrow.n_ff
    rows: list[tuple[str, tuple[int, ...]]] = [
        ("attn_norm.weight", (n_embd,)),
        ("attn_output.weight", (n_rows, n_embd)),
    ]
    if narrow.is_fused:
        rows += [("attn_qkv.weight", (n_rows, n_embd)), ("attn_qkv.bias", (n_rows,))]
        return [*rows, ("ffn_up.weight", (n_rows, n_embd)), ("ffn_down.weight", (n_rows, n_ff))]
    rows += [(f"attn_{part}.weight", (n_rows, n_embd)) for part in "qkv"]
    stack: tuple[int, ...] = ()
    suffix = ""
    if narrow.n_expert:
        stack, suffix = (narrow.n_expert,), "_exps"
        rows.append(("ffn_gate_inp.weight", (narrow.n_expert, n_embd)))
    rows += [(f"ffn_{part}{suffix}.weight", (*stack, n_rows, n_embd)) for part in ("gate", "up")]
    return [*rows, ("ffn_norm.weight", (n_embd,)), (f"ffn_down{suffix}.weight", (*stack, n_rows, n_ff))]
