"""What the probe's child runs: a model of one layer, quantized in every layout that has special kernels, decoded once.

Runs in a process of its own, which may die. Does not judge: it ends with code 0 or does not end well.
"""

import resource
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

import quant
from ggufkit.formats.tensor import F32Array
from ggufkit.runtime import library
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device

N_EMBD, N_FF, N_VOCAB, N_HEAD = 256, 512, 256, 4
# Each layout that llama.cpp repacks or hands to AMX, with rows of N_EMBD columns.
LAYOUTS = {
    "token_embd": ("Q4_K", N_VOCAB), "output": ("Q6_K", N_VOCAB),
    "blk.0.attn_q": ("Q4_0", N_EMBD), "blk.0.attn_k": ("Q8_0", N_EMBD), "blk.0.attn_v": ("Q5_K", N_EMBD),
    "blk.0.attn_output": ("IQ4_XS", N_EMBD), "blk.0.ffn_gate": ("Q4_K", N_FF), "blk.0.ffn_up": ("Q4_1", N_FF),
}  # fmt: skip


def write_model(path: Path, *, vocabulary: bool = False) -> None:
    """A random Llama of one layer; with a `vocabulary` of bytes, whose loading runs llama.cpp's regular expressions."""
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_block_count(1)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    if vocabulary:
        _add_bytes(writer)
    else:
        writer.add_tokenizer_model("no_vocab")
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(N_EMBD, dtype=np.float32))
    for name, (type_name, n_rows) in LAYOUTS.items():
        _add(writer, name, type_name, rng.normal(0, 0.1, (n_rows, N_EMBD)).astype(np.float32))
    _add(writer, "blk.0.ffn_down", "Q6_K", rng.normal(0, 0.1, (N_EMBD, N_FF)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_bytes(writer: gguf.GGUFWriter) -> None:
    """Byte-pair encoding without a pair: one token a byte, spelled as GPT-2 spells them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + at for at in range(N_VOCAB - len(printable))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([chr(code) for code in printable + others])
    writer.add_token_types([gguf.TokenType.NORMAL] * N_VOCAB)
    writer.add_token_merges(["a b"])


def _add(writer: gguf.GGUFWriter, name: str, type_name: str, w: F32Array) -> None:
    qtype = quant.quant_type(type_name)
    blocks = quant.quantize(w, qtype, encoder=quant.Encoder.GGML)
    writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType(qtype.ggml_type))


def decode_once(path: Path, use_extra_bufts: bool, text: str = "") -> bool:
    """Tokenize `text` and decode 32 tokens; whether all logits are finite."""
    with Engine.open(path, n_ctx=64, threads=1, device=Device.CPU, use_extra_bufts=use_extra_bufts) as engine:
        if text:
            engine.tokenize(text)
        engine.decode(np.arange(32, dtype=np.int32), 0, logits=[0] * 31 + [1])
        return bool(np.isfinite(engine.logits(1)).all())


def main() -> None:
    """Entry of the child: its argument is one of `probe.Trial`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    trial = sys.argv[1]
    if trial == "load":
        library.load()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.gguf"
        write_model(path, vocabulary=trial == "vocabulary")
        if not decode_once(path, trial == "extra", "A text of 12 words." if trial == "vocabulary" else ""):
            raise SystemExit(3)
