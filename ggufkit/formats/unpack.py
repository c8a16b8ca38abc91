"""Finds the weights of few bits among a checkpoint's tensors and puts one decoded tensor in the place of their parts.

Knows how each format spells its parts. What the tensors are decides; quantization_config is asked for what they do not
say (bits, sizes of groups). Reads headers only, and the small tables of bitsandbytes.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed import (
    FP8,
    Awq,
    Fp8,
    Gptq,
    Groups,
    Mxfp4,
    Nf4,
    Nvfp4,
    Packed,
    packed_ref,
)
from ggufkit.formats.tensor import TensorRef, widen

UNUSED = (".input_scale", "activation_scale", ".k_scale", ".v_scale", ".input_global_scale", ".weight_shape")
DECODED = "BF16"  # what a conversion stores of them; float32 holds every one of their values
_INTEGERS = ("I32", "U32")
_FLOATS = ("F32", "F16", "BF16")


@dataclass(slots=True)
class _Finder:
    tensors: Mapping[str, TensorRef]
    config: Mapping[str, Any]
    keep: bool
    used: set[str] = field(default_factory=set)
    found: dict[str, int] = field(default_factory=dict)  # format → tensors

    def part(self, name: str, *dtypes: str, required: bool = True) -> TensorRef | None:
        """One part by name, counted as used. Raises CheckpointError where it is absent or of another dtype."""
        ref = self.tensors.get(name)
        if ref is None:
            if required:
                raise CheckpointError(f"{name} is absent; the weights beside it cannot be decoded. Is a shard missing?")
            return None
        if ref.dtype not in dtypes:
            raise CheckpointError(f"{ref.file.path}: {name} is {ref.dtype}, wanted {' or '.join(dtypes)}.")
        self.used.add(name)
        return ref

    def needed(self, name: str, *dtypes: str) -> TensorRef:
        ref = self.part(name, *dtypes)
        assert ref is not None
        return ref

    def number(self, name: str, default: int) -> int:
        value = self.config.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"config.json: quantization_config: {name} is {value!r:.40}, wanted a whole number.")
        return value

    def made(self, what: str, name: str, shape: tuple[int, ...], codes: TensorRef, packed: Packed) -> TensorRef:
        self.used.add(codes.name)
        self.found[what] = self.found.get(what, 0) + 1
        return packed_ref(name, shape, "MXFP4" if self.keep and isinstance(packed, Mxfp4) else DECODED, codes, packed)


def unpack(
    tensors: Mapping[str, TensorRef], config: Mapping[str, Any], *, keep: bool = True
) -> tuple[list[TensorRef], list[str]]:
    """The tensors with decoded ones in place of their parts, and a line for each format that was found.

    config  config.json's quantization_config, {} where there is none
    keep    MXFP4 is one of ggml's own types and stays what it is; otherwise it is decoded like the others

    Raises CheckpointError for parts that are absent or do not fit together.
    """
    finder = _Finder(tensors, config, keep)
    out: list[TensorRef] = []
    for name, ref in tensors.items():
        made = next((made for find in FORMATS if (made := find(finder, name, ref)) is not None), None)
        if made is not None:
            out.append(made)
    if not finder.found:
        return list(tensors.values()), []
    plain = [ref for name, ref in tensors.items() if name not in finder.used and not name.endswith(UNUSED)]
    return plain + out, [_line(what, count, keep) for what, count in finder.found.items()]


def _line(what: str, count: int, keep: bool) -> str:
    if what == "MXFP4" and keep:
        return f"{count} tensors are {what} already, as the model was trained: they are taken over bit for bit."
    return (
        f"{count} tensors were quantized already ({what}) and are decoded: the result carries that loss and its own. "
        "Prefer the original weights where they exist."
    )


def _mxfp4_of_gpt_oss(finder: _Finder, name: str, ref: TensorRef) -> TensorRef | None:
    """X_blocks (…, n_rows, n_block, 16) and X_scales (…, n_rows, n_block)."""
    if not name.endswith("_blocks") or ref.dtype != "U8" or len(ref.shape) < 3 or ref.shape[-1] != 16:
        return None
    base = name.removesuffix("_blocks")
    exponents = finder.needed(f"{base}_scales", "U8", "F8_E8M0")
    _match(exponents, ref.shape[:-1])
    shape = (*ref.shape[:-2], 32 * ref.shape[-2])
    return finder.made("MXFP4", base, shape, ref, Mxfp4(ref, exponents, shape[-1]))


def _packed_weight(finder: _Finder, name: str, ref: TensorRef) -> TensorRef | None:
    """compressed-tensors: X.weight_packed of FP4 (U8) or of integers (I32)."""
    if not name.endswith(".weight_packed") or len(ref.shape) != 2:
        return None
    base = name.removesuffix("_packed")
    if ref.dtype == "U8":
        return _fp4(finder, base, ref)
    if ref.dtype not in _INTEGERS:
        return None
    scales = finder.needed(f"{base}_scale", *_FLOATS)
    zeros = finder.part(f"{base}_zero_point", *_INTEGERS, required=False)
    bits, n_row = _weight_group(finder).get("num_bits", 4), ref.shape[0]
    size = _weight_group(finder).get("group_size")
    if bits not in (4, 8) or not isinstance(size, int) or size < 1 or len(scales.shape) != 2:
        raise CheckpointError(f"{ref.file.path}: {name}: {bits!r:.20} bits in groups of {size!r:.20} cannot be read.")
    _match(scales, (n_row, scales.shape[1]))
    if zeros is not None:
        _match(zeros, (-(-n_row * bits // 32), scales.shape[1]))
    n_per_row = size * scales.shape[1]
    if not 0 <= ref.shape[1] * (32 // bits) - n_per_row < 32 // bits:
        raise CheckpointError(f"{ref.file.path}: {name} has shape {list(ref.shape)}, wanted rows of {n_per_row} codes.")
    return finder.made(f"{bits}-bit groups", base, (n_row, n_per_row), ref, Groups(ref, scales, zeros, bits, size))


def _weight_group(finder: _Finder) -> Mapping[str, Any]:
    groups = finder.config.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights if isinstance(weights, dict) else {}


def _nvfp4_of_modelopt(finder: _Finder, name: str, ref: TensorRef) -> TensorRef | None:
    if (
        ref.dtype != "U8"
        or not name.endswith(".weight")
        or len(ref.shape) != 2
        or f"{name}_scale" not in finder.tensors
    ):
        return None
    return _fp4(finder, name, ref)


def _fp4(finder: _Finder, base: str, codes: TensorRef) -> TensorRef:
    """Codes (n_rows, n / 2) with FP8 scales of 16 (NVFP4) or exponents of 32 (MXFP4)."""
    n_rows, n_per_row = codes.shape[0], 2 * codes.shape[1]
    scales = finder.needed(f"{base}_scale", *FP8, "U8", "F8_E8M0")
    if scales.dtype in FP8:
        _match(scales, (n_rows, n_per_row // 16))
        whole = finder.part(f"{base}_scale_2", "F32", required=False)
        inverse = finder.part(f"{base}_global_scale", "F32", required=False)
        packed = Nvfp4(codes, scales, inverse if whole is None else whole, inverse=whole is None)
        return finder.made("NVFP4", base, (n_rows, n_per_row), codes, packed)
    _match(scales, (n_rows, n_per_row // 32))
    return finder.made("MXFP4", base, (n_rows, n_per_row), codes, Mxfp4(codes, scales, n_per_row))


def _fp8(finder: _Finder, name: str, ref: TensorRef) -> TensorRef | None:
    """X with X_scale_inv (DeepSeek), X_scale (compressed-tensors, ModelOpt): blocks, rows, or one scale for all."""
    if ref.dtype not in FP8 or name.endswith(("_scale", "_scale_inv")):
        return None
    spelling = next((s for s in ("_scale_inv", "_scale") if name + s in finder.tensors), None)
    if spelling is None:
        raise CheckpointError(f"{ref.file.path}: {name} is {ref.dtype} and has no {name}_scale_inv beside it.")
    scales = finder.needed(name + spelling, *_FLOATS)
    block = _block(finder, ref, scales)
    return finder.made("FP8", name, ref.shape, ref, Fp8(ref, scales, block))


def _block(finder: _Finder, ref: TensorRef, scales: TensorRef) -> tuple[int, int]:
    """Rows and columns that share a scale, from the shapes; sizes that do not divide from quantization_config."""
    n_rows, n_per_row = ref.shape[-2:] if len(ref.shape) > 1 else (1, ref.n_per_row)
    stack = ref.n_rows // n_rows
    grid = tuple(scales.shape)
    if int(np.prod(grid)) == 1:
        return ref.n_rows, n_per_row
    if len(grid) == 1 or grid[-1] == 1:  # one a row, or one a matrix of the stack
        count = int(np.prod(grid))
        if ref.n_rows % count == 0 and count in (ref.n_rows, stack):
            return ref.n_rows // count, n_per_row
    stated = finder.config.get("weight_block_size") or _weight_group(finder).get("block_structure") or [128, 128]
    fits = isinstance(stated, list) and len(stated) == 2 and all(isinstance(n, int) and n > 0 for n in stated)
    if fits:
        down, across = -(-n_rows // stated[0]), -(-n_per_row // stated[1])
        whole = grid[-2:] == (down, across) and int(np.prod(grid)) == stack * down * across
        if whole and (stack == 1 or n_rows % stated[0] == 0):
            return stated[0], stated[1]
    raise CheckpointError(
        f"{scales.file.path}: {scales.name} has shape {list(grid)}, which does not fit scales of {list(ref.shape)} in "
        f"blocks of {stated!r:.40}."
    )


def _gptq_or_awq(finder: _Finder, name: str, ref: TensorRef) -> TensorRef | None:
    if not name.endswith(".qweight") or ref.dtype not in _INTEGERS or len(ref.shape) != 2:
        return None
    base = name.removesuffix(".qweight")
    zeros, scales = finder.needed(f"{base}.qzeros", *_INTEGERS), finder.needed(f"{base}.scales", *_FLOATS)
    bits = finder.number("bits", finder.number("w_bit", 4))
    n_group, n_rows = scales.shape if len(scales.shape) == 2 else (0, 0)
    if n_group and ref.shape[1] * 8 == n_rows and ref.shape[0] % n_group == 0 and bits == 4:
        _match(zeros, (n_group, n_rows // 8))
        awq = Awq(ref, zeros, scales, ref.shape[0] // n_group)
        return finder.made("AWQ", f"{base}.weight", (n_rows, ref.shape[0]), ref, awq)
    n_per_row = ref.shape[0] * 32 // bits
    if bits not in (2, 4, 8) or not n_group or ref.shape[1] != n_rows:
        raise CheckpointError(f"{ref.file.path}: {name} has shape {list(ref.shape)}, no codes of {bits} bits.")
    _match(zeros, (n_group, n_rows * bits // 32))
    groups = finder.part(f"{base}.g_idx", *_INTEGERS, required=False)
    if groups is not None:
        _match(groups, (n_per_row,))
    plus_one = finder.config.get("checkpoint_format", "gptq") == "gptq"
    packed = Gptq(ref, zeros, scales, groups, bits, -(-n_per_row // n_group), plus_one)
    return finder.made(f"GPTQ of {bits} bits", f"{base}.weight", (n_rows, n_per_row), ref, packed)


def _nf4(finder: _Finder, name: str, ref: TensorRef) -> TensorRef | None:
    state = finder.part(f"{name}.quant_state.bitsandbytes__nf4", "U8", required=False) or finder.part(
        f"{name}.quant_state.bitsandbytes__fp4", "U8", required=False
    )
    if state is None or ref.dtype != "U8":
        return None
    try:
        facts = json.loads(state.file.pread(state.offset, min(state.nbytes, 1 << 16)).tobytes())
        shape, block = tuple(int(n) for n in facts["shape"]), int(facts["blocksize"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{state.file.path}: {state.name} cannot be read ({error!r:.60}).") from error
    n_weights = int(np.prod(shape))
    if len(shape) != 2 or min(shape) < 1 or block < 2 or block % 2 or n_weights % 2 or ref.nbytes * 2 != n_weights:
        raise CheckpointError(
            f"{state.file.path}: {state.name} says {shape}, {ref.name} holds {2 * ref.nbytes} weights."
        )
    magnitude = finder.needed(f"{name}.absmax", "F32", "U8")
    values = _table(finder.needed(f"{name}.quant_map", "F32"), 16)
    _match(magnitude, (-(-n_weights // block),))
    nested = None
    if magnitude.dtype == "U8":
        scales = finder.needed(f"{name}.nested_absmax", "F32")
        size, offset = int(facts.get("nested_blocksize", 256)), float(facts.get("nested_offset", 0.0))
        _match(scales, (-(-magnitude.n_per_row // size),))
        nested = (_table(finder.needed(f"{name}.nested_quant_map", "F32"), 256), scales, size, offset)
    packed = Nf4(ref, shape[1], block, values, magnitude, nested)
    return finder.made("bitsandbytes, 4 bits", name, shape, ref, packed)


def _table(ref: TensorRef, count: int) -> Any:
    _match(ref, (count,))
    return widen(ref.file.pread(ref.offset, 4 * count), "F32")


def _match(ref: TensorRef, shape: Iterable[int]) -> None:
    wanted = tuple(shape)
    if ref.shape != wanted:
        raise CheckpointError(f"{ref.file.path}: {ref.name} has shape {list(ref.shape)}, wanted {list(wanted)}.")


FORMATS: tuple[Callable[[_Finder, str, TensorRef], TensorRef | None], ...] = (
    _mxfp4_of_gpt_oss,
    _packed_weight,
    _nvfp4_of_modelopt,
    _fp8,
    _gptq_or_awq,
    _nf4,
)
