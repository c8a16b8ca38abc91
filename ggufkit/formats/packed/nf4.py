"""bitsandbytes: four bits that stand for the values of a table."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed.finder import Finder, match
from ggufkit.formats.packed.ref import bytes_of, values_of
from ggufkit.formats.tensor import F32Array, TensorRef, widen


@dataclass(frozen=True, slots=True)
class Nf4:
    """bitsandbytes: two values a byte, the earlier one high, over the whole tensor; a largest magnitude each block.

    values     what the 16 codes mean
    magnitude  of each block: float32, or codes of 8 bits with `nested` (their values, their magnitudes, an offset)
    """

    codes: TensorRef
    n_per_row: int
    block: int
    values: F32Array
    magnitude: TensorRef
    nested: tuple[F32Array, TensorRef, int, float] | None

    def rows(self, start: int, stop: int) -> F32Array:
        begin, end = start * self.n_per_row, stop * self.n_per_row
        first, last = begin // self.block, -(-end // self.block)
        codes = bytes_of(self.codes, first * self.block // 2, min(last * self.block // 2, self.codes.nbytes))
        w = self.values[np.stack([codes >> 4, codes & 15], axis=-1).reshape(-1)]
        w *= np.repeat(self._magnitudes(first, last), self.block)[: len(w)]
        return w[begin - first * self.block :][: end - begin].reshape(stop - start, self.n_per_row)

    def _magnitudes(self, first: int, last: int) -> F32Array:
        if self.nested is None:
            return values_of(self.magnitude, first, last)
        table, scales, size, offset = self.nested
        codes = bytes_of(self.magnitude, first, last)
        low, high = first // size, (last - 1) // size + 1
        of_block = values_of(scales, low, high)[np.arange(first, last) // size - low]
        return table[codes] * of_block + np.float32(offset)


def nf4(finder: Finder, name: str, ref: TensorRef) -> TensorRef | None:
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
    match(magnitude, (-(-n_weights // block),))
    nested = None
    if magnitude.dtype == "U8":
        scales = finder.needed(f"{name}.nested_absmax", "F32")
        size, offset = int(facts.get("nested_blocksize", 256)), float(facts.get("nested_offset", 0.0))
        match(scales, (-(-magnitude.n_per_row // size),))
        nested = (_table(finder.needed(f"{name}.nested_quant_map", "F32"), 256), scales, size, offset)
    packed = Nf4(ref, shape[1], block, values, magnitude, nested)
    return finder.made("bitsandbytes, 4 bits", name, shape, ref, packed)


def _table(ref: TensorRef, count: int) -> Any:
    match(ref, (count,))
    return widen(ref.file.pread(ref.offset, 4 * count), "F32")
