"""`Model`: a checkpoint in GGUF's words. Names, shapes, metadata and where the weights lie; no weights in memory.

Made by `ggufkit.architectures` from a Hugging Face folder and by `ggufkit.formats.gguf_source` from a GGUF file.
Read by recipes (which type for which tensor) and workflows (encode and write). Does not know types to come.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import gguf
import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.bend import Bend
from ggufkit.formats.source_file import SourceFile
from ggufkit.formats.tensor import F32Array, TensorRef


@dataclass(frozen=True, slots=True)
class KV:
    """One metadata entry. `item_type` is set for arrays only; values are str, int, float, bool or sequences of them."""

    key: str
    type: gguf.GGUFValueType
    value: Any
    item_type: gguf.GGUFValueType | None = None


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """One tensor of the GGUF to be: (n,) or (n_rows, n_per_row) or (n_expert, n_rows, n_per_row), numpy order.

    dtype    what a conversion at `auto` would store: the source's own F32, F16, BF16 or Q8_0
    parts    one TensorRef for each expert, or a single one that holds all
    bend     what is done to the matrix of each expert; None where it is taken over as it is
    keep_f32 norms, biases, routers and 1-D tensors: stored as F32 whatever the recipe says
    keep_stored  quantized in training: its blocks are taken over whatever the recipe says
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[TensorRef, ...]
    bend: Bend | None = None
    keep_f32: bool = False
    keep_stored: bool = False

    @property
    def n_expert(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def n_rows(self) -> int:
        """Rows of one expert."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def n_per_row(self) -> int:
        return self.shape[-1]

    @property
    def n_weights(self) -> int:
        return prod(self.shape)

    @property
    def has_stored_rows(self) -> bool:
        """Whether `raw_rows` can give the rows."""
        return self.bend is None or self.bend.moves_whole_rows

    def rows(self, expert: int, start: int, stop: int) -> F32Array:
        """Rows [start, stop) of one expert as float32 (stop - start, n_per_row)."""
        part = self._part(expert)
        return part.rows(start, stop) if self.bend is None else self.bend.rows(part, start, stop)

    def raw_rows(self, expert: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Stored bytes of rows [start, stop) of one expert (stop - start, row_nbytes), where `has_stored_rows`."""
        assert self.has_stored_rows, f"{self.name}: its weights are not stored as they are"
        part = self._part(expert)
        return part.raw_rows(start, stop) if self.bend is None else self.bend.raw_rows(part, start, stop)

    def _part(self, expert: int) -> TensorRef:
        """The stored matrix of one expert."""
        if len(self.parts) == self.n_expert:
            return self.parts[expert]
        n_rows = self.parts[0].n_rows // self.n_expert
        return self.parts[0].sliced(expert * n_rows, (expert + 1) * n_rows)


@dataclass(frozen=True, slots=True)
class Hparams:
    """What recipes need to know of a model. Source: llama-quant.cpp reads the same of llama_hparams.

    n_layer  with the blocks that guess further tokens; n_mtp  how many of the last layers those are
    """

    arch: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_expert: int = 0
    n_expert_used: int = 0
    n_ctx_train: int = 0
    n_vocab: int = 0
    head_dim_k: int = 0
    head_dim_v: int = 0
    n_mtp: int = 0

    @property
    def n_gqa(self) -> int:
        return self.n_head // self.n_head_kv if self.n_head_kv else 0


@dataclass(frozen=True, slots=True)
class Model:
    """A whole model: metadata in the order it is to be written, tensors in the order of the source.

    source   what it was made from, for provenance: {"kind": "safetensors"|"gguf", "fingerprint": …}; no local paths
    dropped  source tensors that are left out on purpose, each with its reason
    notes    what else a person should know: files and entries that could not be read and are not needed
    """

    hparams: Hparams
    metadata: tuple[KV, ...]
    tensors: tuple[ModelTensor, ...]
    source: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def kv(self, key: str) -> Any:
        """Value of a metadata key, or None."""
        return next((kv.value for kv in self.metadata if kv.key == key), None)

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Every file that holds weights, once."""
        return tuple({id(file): file for t in self.tensors for ref in t.parts for file in ref.files}.values())

    @property
    def source_nbytes(self) -> int:
        """Bytes of the source's weights; a stored tensor that makes two counts once."""
        return sum({(id(ref.file), ref.offset): ref.nbytes for t in self.tensors for ref in t.parts}.values())

    def close(self) -> None:
        """Close all files. Rows cannot be read after that; everything else stays."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
