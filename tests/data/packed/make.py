"""Makes packed.npz: small weights in each packed format, written and decoded by the format's own library.

Run by hand; it needs torch, compressed-tensors and bitsandbytes, llama.cpp's source (for GPTQ) and AutoAWQ's (for AWQ):

    refvenv/bin/python tests/data/packed/make.py PATH/TO/llama.cpp PATH/TO/autoawq

Each case holds the tensors as a checkpoint has them, quantization_config, and the float32 weights that the library gives.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize

HERE = Path(__file__).parent
N_ROWS = 24
NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int32: "I32",
    torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def words(*shape):
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).to(torch.int32)


def compressed(kind, args, n_rows=N_ROWS, n_per_row=128, **more):
    """A weight that compressed-tensors rounds, packs and unpacks."""
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    state = {
        "weight": torch.randn(n_rows, n_per_row),
        "weight_scale": torch.rand(n_rows, n_per_row // args["group_size"]) / 8 + 0.05,
    }
    state |= more
    packed = BaseCompressor.get_value_from_registry(kind).compress(state, scheme)
    weight = BaseCompressor.get_value_from_registry(kind).decompress(dict(packed), scheme)["weight"]
    group = {"weights": {key: args[key] for key in ("num_bits", "group_size", "type", "symmetric")}}
    config = {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"group_0": group}}
    return packed, config, weight


def int4():
    return compressed(
        "pack-quantized", {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32, "strategy": "group"}
    )


def int4_zeros():
    zeros = torch.randint(-8, 7, (N_ROWS, 4), dtype=torch.int8)
    args = {"num_bits": 4, "type": "int", "symmetric": False, "group_size": 32, "strategy": "group"}
    return compressed("pack-quantized", args, weight_zero_point=zeros)


def int8():
    return compressed(
        "pack-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "group_size": 64, "strategy": "group"}
    )


def nvfp4():
    args = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": 16, "strategy": "tensor_group",
            "scale_dtype": torch.float8_e4m3fn}  # fmt: skip
    scale = (torch.rand(N_ROWS, 8) * 200 + 1).to(torch.float8_e4m3fn).float()
    whole = torch.tensor([431.5])
    packed, config, _ = compressed("nvfp4-pack-quantized", args, weight_scale=scale, weight_global_scale=whole)
    # the library decodes in bfloat16; its two steps in float32 are the values that its kernels compute with
    codes = unpack_fp4_from_uint8(packed["weight_packed"], N_ROWS, 128, dtype=torch.float32)
    scheme = QuantizationArgs(**args)
    return (
        packed,
        config,
        dequantize(codes, packed["weight_scale"].float(), args=scheme, global_scale=whole, dtype=torch.float32),
    )


def fp8(grid, spelling, config, *, n_rows=40, n_per_row=72, dtype=torch.float8_e4m3fn, scale_dtype=torch.float32):
    """As transformers and DeepSeek decode: float32 of the byte times the scale of its block."""
    codes = torch.randn(n_rows, n_per_row).mul(20).to(dtype)
    scale = (torch.rand(grid) / 64 + 0.001).to(scale_dtype)
    wide = scale.float().reshape(grid) if grid else scale.float()
    if len(grid) == 2 and grid[1] > 1:
        wide = wide.repeat_interleave(32, 0)[:n_rows].repeat_interleave(32, 1)[:, :n_per_row]
    elif len(grid) == 1 and grid[0] > 1:
        wide = wide[:, None]
    return {"weight": codes, f"weight{spelling}": scale}, config, codes.float() * wide


def gptq(**config):
    """By llama.cpp's converter, which follows GPTQModel."""
    from conversion.base import ModelBase

    bits = config["bits"]
    n_rows, n_per_row, n_group = 32, 64, 4
    state = {
        "qweight": words(n_per_row * bits // 32, n_rows),
        "qzeros": words(n_group, n_rows * bits // 32),
        "scales": (torch.rand(n_group, n_rows) / 50 + 0.001).half(),
        "g_idx": torch.randperm(n_per_row).to(torch.int32) % n_group,
    }
    holder = types.SimpleNamespace(
        hparams={"quantization_config": config}, model_tensors={f"x.{k}": (lambda v=v: v) for k, v in state.items()},
        lazy=False, _is_nvfp4=False,
    )  # fmt: skip
    ModelBase.dequant_model(holder)
    return state, config, holder.model_tensors["x.weight"]()


def awq(source):
    path = source / "awq" / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    scales = (torch.rand(4, 32) / 50 + 0.001).half()
    state = {"qweight": words(64, 4), "qzeros": words(4, 4), "scales": scales}
    weight = library.dequantize_gemm(state["qweight"], state["qzeros"], scales.float(), 4, 16).T
    return state, {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}, weight


def nf4(*, nested):
    import bitsandbytes.functional as bnb

    weight = torch.randn(N_ROWS, 136)
    codes, state = bnb.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type="nf4")
    parts = {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    out = bnb.dequantize_4bit(codes, state)
    return {"weight": codes, **parts}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, out


def main():
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    torch.manual_seed(7)
    block = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    cases = {
        "integers of 4 bits": int4(),
        "integers of 4 bits with zeros": int4_zeros(),
        "integers of 8 bits": int8(),
        "nvfp4": nvfp4(),
        "fp8 blocks": fp8((2, 3), "_scale_inv", block),
        "fp8 blocks, scales of 16 bits": fp8((2, 3), "_scale_inv", block, scale_dtype=torch.bfloat16),
        "fp8 rows": fp8((40, 1), "_scale", {"quant_method": "compressed-tensors"}, scale_dtype=torch.bfloat16),
        "fp8 rows, flat": fp8((40,), "_scale", {}),
        "fp8 whole": fp8((), "_scale", {}),
        "fp8 whole, e5m2": fp8((1,), "_scale", {}, dtype=torch.float8_e5m2),
        "gptq 4": gptq(quant_method="gptq", bits=4, group_size=32),
        "gptq 4, second format": gptq(quant_method="gptq", bits=4, group_size=32, checkpoint_format="gptq_v2"),
        "gptq 8": gptq(quant_method="gptq", bits=8, group_size=32),
        "awq": awq(Path(sys.argv[2])),
        "nf4": nf4(nested=False),
        "nf4, nested": nf4(nested=True),
    }
    arrays, facts = {}, {}
    for name, (parts, config, weight) in cases.items():
        state = {key: value.contiguous() for key, value in parts.items()}
        facts[name] = {"config": config, "dtypes": {key: NAMES[value.dtype] for key, value in state.items()}}
        for key, value in state.items():
            arrays[f"{name}/{key}"] = (
                value.view(torch.uint8).numpy() if value.dim() else value[None].view(torch.uint8).numpy()
            )
            facts[name].setdefault("shapes", {})[key] = list(value.shape)
        arrays[f"{name}/decoded"] = weight.float().contiguous().numpy()
    np.savez_compressed(HERE / "packed.npz", facts=np.array(json.dumps(facts)), **arrays)


if __name__ == "__main__":
    main()
