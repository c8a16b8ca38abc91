"""`Batch`: tokens, positions and sequences as llama.cpp reads them, filled through numpy.

    llama_batch  token[n]  pos[n]  n_seq_id[n] = 1  seq_id[n] -> &ids[sequence]  logits[n] = 1 where wanted
                 or, instead of tokens, embd[n][n_embd]: what goes into the first layer

Knows the struct. Does not know models or what the logits are for.
"""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

I32Array = NDArray[np.int32]
F32Array = NDArray[np.float32]


def pointer_to(array: NDArray[Any], kind: Any) -> Any:
    """A pointer of that type for C, as long as the caller keeps the array. `array.ctypes.data_as` makes a circle that
    keeps it until the collector comes by: megabytes for each batch of rows."""
    return kind(kind._type_.from_address(array.ctypes.data))


class Batch:
    """Room for `n_tokens` tokens of up to `n_seq` sequences. Each token belongs to one sequence."""

    def __init__(self, lib: ModuleType, n_tokens: int, n_seq: int) -> None:
        self._token = np.zeros(n_tokens, dtype=np.int32)
        self._pos = np.zeros(n_tokens, dtype=np.int32)
        self._n_seq_id = np.ones(n_tokens, dtype=np.int32)
        self._ids = np.arange(n_seq, dtype=np.int32)
        self._seq_id = np.zeros(n_tokens, dtype=np.uintp)
        self._logits = np.zeros(n_tokens, dtype=np.int8)
        self.struct = lib.llama_batch()
        self._fields = dict(lib.llama_batch._fields_)
        self._embd: F32Array | None = None  # of the batch in hand, kept alive
        for name in ("pos", "n_seq_id", "seq_id", "logits"):
            array: NDArray[Any] = getattr(self, f"_{name}")
            setattr(self.struct, name, pointer_to(array, self._fields[name]))

    def fill(self, tokens: I32Array | F32Array, pos: ArrayLike, seq: ArrayLike, logits: ArrayLike) -> None:
        """Set the batch to `tokens`: ids (n,), or rows (n, n_embd) float32 in place of embeddings.

        `pos`, `seq` and `logits` are (n,) or one value for all.
        """
        n = len(tokens)
        if tokens.ndim == 2:
            self._embd = np.ascontiguousarray(tokens, dtype=np.float32)
            self.struct.token = None
            self.struct.embd = pointer_to(self._embd, self._fields["embd"])
        else:
            self._token[:n] = tokens
            self._embd, self.struct.embd = None, None
            self.struct.token = pointer_to(self._token, self._fields["token"])
        self._pos[:n] = pos
        self._seq_id[:n] = self._ids.ctypes.data + 4 * np.asarray(seq, dtype=np.uintp)
        self._logits[:n] = logits
        self.struct.n_tokens = n
