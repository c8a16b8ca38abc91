"""Makes packed.npz: small weights in each packed format, written and decoded by the format's own library.

Run by hand; it needs torch, compressed-tensors and bitsandbytes, llama.cpp's source and AutoGPTQ's (for GPTQ), AutoAWQ's
(for AWQ) and ModelOpt's (for its NVFP4):

    refvenv/bin/python tests/data/packed/make.py PATH/TO/llama.cpp PATH/TO/autoawq PATH/TO/auto_gptq PATH/TO/modelopt

Each case holds the tensors as a checkpoint has them, quantization_config, and the float32 weights that the library gives.
"""

import importlib.util
import json
import sys
import types
import unittest.mock
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
    torch.int64: "I64", torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def words(*shape):
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).to(torch.int32)


def compressed(kind, args, n_rows=N_ROWS, n_per_row=128, **more):
    """A weight that compressed-tensors rounds, packs and unpacks."""
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    n_group = n_per_row // args["group_size"] if args.get("group_size") else 1
    state = {
        "weight": torch.randn(n_rows, n_per_row),
        "weight_scale": torch.rand(n_rows, n_group) / 8 + 0.05,
    }
    state |= more
    packed = BaseCompressor.get_value_from_registry(kind).compress(state, scheme)
    weight = BaseCompressor.get_value_from_registry(kind).decompress(dict(packed), scheme)["weight"]
    group = {"weights": {key: args.get(key) for key in ("num_bits", "group_size", "type", "symmetric")}}
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


def ints(bits, *, group_size=32, zeros=False, kind="pack-quantized", **how):
    """Integers of any width; group_size None: a scale a row."""
    strategy = "group" if group_size else "channel"
    args = {"num_bits": bits, "type": "int", "symmetric": not zeros, "strategy": strategy, **how}
    if group_size:
        args["group_size"] = group_size
    more = {}
    if zeros:
        half = 1 << (bits - 1)
        shape = (N_ROWS, 96 // group_size if group_size else 1)
        more["weight_zero_point"] = torch.randint(-half, half - 1, shape, dtype=torch.int8)
    return compressed(kind, args, n_per_row=96, **more)


def mxfp4():
    args = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": 32, "strategy": "group",
            "scale_dtype": torch.uint8}  # fmt: skip
    scale = 2.0 ** torch.randint(-8, 3, (N_ROWS, 4)).float()
    return compressed("mxfp4-pack-quantized", args, weight_scale=scale)


def mxfp8():
    args = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": 32, "strategy": "group",
            "scale_dtype": torch.uint8}  # fmt: skip
    scale = 2.0 ** torch.randint(-8, 3, (N_ROWS, 4)).float()
    return compressed("mxfp8-quantized", args, weight_scale=scale)


def nvfp4_of_modelopt(source):
    """ModelOpt's own class packs and unpacks."""
    package = "modelopt.torch.quantization"
    folder = source / package.replace(".", "/") / "qtensor"
    for name in ("modelopt", "modelopt.torch", package, f"{package}.qtensor", f"{package}.backends"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    for name in ("backends.utils", "utils", "utils.numeric_utils"):  # of no use to what is called here
        sys.modules[f"{package}.{name}"] = unittest.mock.MagicMock()
    for name in ("base_qtensor", "nvfp4_tensor"):
        full = f"{package}.qtensor.{name}"
        spec = importlib.util.spec_from_file_location(full, folder / f"{name}.py")
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    kind = sys.modules[f"{package}.qtensor.nvfp4_tensor"].NVFP4QTensor
    weight = torch.randn(N_ROWS, 128)
    whole = weight.abs().max() / (6 * 448)
    scale = (weight.view(N_ROWS, 8, 16).abs().amax(-1) / (6 * whole)).to(torch.float8_e4m3fn)
    scaled = weight.view(N_ROWS, 8, 16) / (scale.float() * whole)[..., None]
    codes = kind._cast_fp4(scaled.view(N_ROWS, 128))
    codes = (codes[:, 1::2] << 4) | codes[:, 0::2]
    packed = kind(weight.shape, torch.float32, codes)
    out = packed.dequantize(scale=scale, double_scale=whole, block_sizes={-1: 16})
    return (
        {"weight": codes, "weight_scale": scale, "weight_scale_2": whole, "input_scale": torch.tensor(0.25)},
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        out,
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


def gptq_of_its_library(source, bits):
    """AutoGPTQ packs and multiplies with the unit matrix; columns belong to groups in no order."""
    path = source / "auto_gptq" / "nn_modules" / "qlinear" / "qlinear_cuda.py"
    spec = importlib.util.spec_from_file_location("qlinear_cuda", path)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    n_rows, n_per_row, size = 32, 96, 24
    groups = (torch.randperm(n_per_row) // size).to(torch.int32)
    scales = torch.rand(n_rows, n_per_row // size) / 50 + 0.001
    zeros = torch.randint(1, 1 << bits, (n_rows, n_per_row // size)).float()
    codes = torch.randint(0, 1 << bits, (n_rows, n_per_row))
    linear = torch.nn.Linear(n_per_row, n_rows, bias=False)
    linear.weight.data = (codes - zeros[:, groups.long()]) * scales[:, groups.long()]
    packed = library.QuantLinear(bits, size, n_per_row, n_rows, False, weight_dtype=torch.float32)
    packed.pack(linear, scales, zeros, groups)
    out = packed(torch.eye(n_per_row)).T
    state = {key: getattr(packed, key) for key in ("qweight", "qzeros", "scales", "g_idx")}
    return state, {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": True}, out


def awq(source):
    path = source / "awq" / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    scales = (torch.rand(4, 32) / 50 + 0.001).half()
    state = {"qweight": words(64, 4), "qzeros": words(4, 4), "scales": scales}
    weight = library.dequantize_gemm(state["qweight"], state["qzeros"], scales.float(), 4, 16).T
    return state, {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}, weight


def awq_of_its_library(source):
    """AutoAWQ packs; what it packs is known beforehand."""
    for name in ("awq", "awq.utils", "awq.utils.utils", "awq.modules", "awq.modules.triton"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["awq.utils.utils"].get_best_device = lambda: "cpu"
    sys.modules["awq.utils.module"] = types.SimpleNamespace(try_import=lambda _: (None, ""))
    sys.modules["awq.utils.packing_utils"] = types.SimpleNamespace(dequantize_gemm=None)
    spec = importlib.util.spec_from_file_location("gemm", source / "awq" / "modules" / "linear" / "gemm.py")
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    n_rows, n_per_row, size = 32, 96, 24
    scales = (torch.rand(n_per_row // size, n_rows) / 50 + 0.001).half()
    zeros = torch.randint(0, 16, (n_per_row // size, n_rows))
    codes = torch.randint(0, 16, (n_per_row, n_rows))
    groups = torch.arange(n_per_row) // size
    weight = ((codes - zeros[groups]).float() * scales.float()[groups]).T
    linear = torch.nn.Linear(n_per_row, n_rows, bias=False)
    linear.weight.data = weight
    packed = library.WQLinear_GEMM.from_linear(linear, 4, size, scales=scales.float(), zeros=zeros.float())
    state = {key: getattr(packed, key) for key in ("qweight", "qzeros", "scales")}
    return state, {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}, weight


def llm_int8():
    import bitsandbytes.functional as bnb

    weight = torch.randn(N_ROWS, 136)
    scale = weight.abs().amax(dim=1)
    codes = torch.round(weight * (127 / scale[:, None])).to(torch.int8)
    state = {"weight": codes, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return state, {"quant_method": "bitsandbytes", "load_in_8bit": True}, bnb.int8_vectorwise_dequant(codes, scale)


def nf4(*, nested, kind="nf4"):
    import bitsandbytes.functional as bnb

    weight = torch.randn(N_ROWS, 136)
    codes, state = bnb.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type=kind)
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
        "fp4": nf4(nested=False, kind="fp4"),
        "fp4, nested": nf4(nested=True, kind="fp4"),
        "llm.int8": llm_int8(),
        "gptq 2, of AutoGPTQ": gptq_of_its_library(Path(sys.argv[3]), 2),
        "gptq 3, of AutoGPTQ": gptq_of_its_library(Path(sys.argv[3]), 3),
        "gptq 4, of AutoGPTQ": gptq_of_its_library(Path(sys.argv[3]), 4),
        "gptq 8, of AutoGPTQ": gptq_of_its_library(Path(sys.argv[3]), 8),
        "nvfp4 of ModelOpt": nvfp4_of_modelopt(Path(sys.argv[4])),
        "mxfp4": mxfp4(),
        "mxfp8": mxfp8(),
        "integers of 4 bits, a scale a row": ints(4, group_size=None),
        "integers of 3 bits": ints(3),
        "integers of 3 bits with zeros": ints(3, zeros=True),
        "integers of 5 bits with zeros": ints(5, zeros=True),
        "integers of 2 bits": ints(2),
        "int8 rows": ints(8, group_size=None, kind="int-quantized"),
        "int8 groups with zeros": ints(8, zeros=True, kind="int-quantized"),
        "awq, of AutoAWQ": awq_of_its_library(Path(sys.argv[2])),
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
