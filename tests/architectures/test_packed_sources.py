"""Whole checkpoints with weights of few bits: decoded, and bent as any others."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.architectures import convert
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.workflows.quantize import QuantizeSettings, quantize
from tests.architectures import tiny
from tests.formats.test_packed import FACTS, PACKED

CASE, LAYER = "mistral-7b-v0.1", "model.layers.0"
MATRIX = f"{LAYER}.self_attn.k_proj"  # whose rows change their order


def packed_checkpoint(name: str, root: Path) -> Path:
    """A Mistral of one layer whose keys are made by a packed matrix, two heads of half of its rows each."""
    (n_rows, n_embd), case, folder = PACKED[f"{name}/decoded"].shape, tiny.load_case(CASE), root / CASE
    sizes = {"hidden_size": n_embd, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
             "head_dim": n_rows // 2, "quantization_config": FACTS[name]["config"]}  # fmt: skip
    tiny.write_files(case | {"config": case["config"] | sizes}, folder)
    n_ff, n_vocab = case["config"]["intermediate_size"], case["config"]["vocab_size"]
    shapes = {"model.embed_tokens": [n_vocab, n_embd], "lm_head": [n_vocab, n_embd], "model.norm": [n_embd],
              f"{LAYER}.input_layernorm": [n_embd], f"{LAYER}.post_attention_layernorm": [n_embd],
              f"{LAYER}.self_attn.q_proj": [n_rows, n_embd], f"{LAYER}.self_attn.v_proj": [n_rows, n_embd],
              f"{LAYER}.self_attn.o_proj": [n_embd, n_rows], f"{LAYER}.mlp.down_proj": [n_embd, n_ff],
              f"{LAYER}.mlp.gate_proj": [n_ff, n_embd], f"{LAYER}.mlp.up_proj": [n_ff, n_embd]}  # fmt: skip
    tensors = {f"{key}.weight": tiny.tensor_of(f"{key}.weight", shape, "BF16")[1:] for key, shape in shapes.items()}
    dtypes = {}
    for part, dtype in FACTS[name]["dtypes"].items():
        dtypes[f"{MATRIX}.{part}"] = dtype
        tensors[f"{MATRIX}.{part}"] = (FACTS[name]["shapes"][part], PACKED[f"{name}/{part}"].tobytes())
    tiny.write_safetensors(folder / "model.safetensors", tensors, "BF16", dtypes)
    return folder


@pytest.mark.parametrize("name", FACTS)
def test_rows_are_decoded_and_change_their_order(name: str, tmp_path: Path) -> None:
    wanted = PACKED[f"{name}/decoded"]
    model = convert(Checkpoint.open(packed_checkpoint(name, tmp_path)))
    wanted = wanted[np.arange(len(wanted)).reshape(2, 2, -1).swapaxes(1, 2).reshape(-1)]
    (tensor,) = (tensor for tensor in model.tensors if tensor.name == "blk.0.attn_k.weight")
    assert np.array_equal(tensor.rows(0, 0, tensor.n_rows), wanted)
    assert np.array_equal(tensor.rows(0, 5, 23), wanted[5:23])
    assert not model.dropped and any("already" in note for note in model.notes)


@pytest.mark.parametrize("name", ["gptq 3, of AutoGPTQ", "integers of 5 bits with zeros", "nvfp4 of ModelOpt"])
def test_bytes_do_not_depend_on_slabs(name: str, tmp_path: Path) -> None:
    folder, files = packed_checkpoint(name, tmp_path), []
    for threads in (1, 2):
        out = tmp_path / f"{threads}.gguf"
        quantize(QuantizeSettings(source=folder, output=out, recipe="F32", threads=threads, provenance=False))
        files.append(out.read_bytes())
    assert files[0] == files[1]
