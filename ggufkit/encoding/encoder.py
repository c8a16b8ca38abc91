"""`RowEncoder`: who turns rows into blocks, and what the file is told of it. `PlainEncoder` searches with importance.

The encoder is an argument of `encoding.job.prepare` and `write`; nothing else of the job knows how rows are encoded.
"""

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import gguf
import numpy as np
from numpy.typing import NDArray

import quant
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.encoding.slabs import ONE_BY_ONE
from ggufkit.errors import ImatrixError
from ggufkit.formats.imatrix import Imatrix
from ggufkit.formats.imatrix_file import read_imatrix
from ggufkit.formats.model import KV, Model
from ggufkit.recipes.plan import PlannedTensor

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]
Tally = Mapping[str, int]

# bytes a weight while a slab is in work: stored (4 at most), widened (4), encoded (4 at most), encoder scratch (4)
BYTES_PER_WEIGHT = 16
# the same of rows encoded together, a step at a time: widened (4), lost of them (4), encoded (2); and of a step
BYTES_PER_WEIGHT_TOGETHER, BYTES_PER_WEIGHT_OF_STEP = 10, 40


class ExpertEncoder(Protocol):
    """What a `RowEncoder` does with the rows of one expert of one tensor: a value that other processes can be sent."""

    @property
    def nbytes(self) -> int:
        """About how many bytes it has to travel."""
        ...

    def __call__(self, w: F32Array, first: int = 0) -> tuple[U8Array, Tally]:
        """Blocks of these rows, the first of which has that number, and what there is to count of them. Called from
        several threads."""
        ...


class RowEncoder(Protocol):
    """Turns rows of one expert of one planned tensor into blocks. Called from several threads.

    Rows are encoded independently of each other, or in groups that come as a whole, whatever slabs they come in.
    Whether rows may hold numbers that are not finite has been decided before.
    """

    @property
    def name(self) -> quant.Encoder:
        """Whose bytes these are."""
        ...

    @property
    def identity(self) -> str:
        """All that decides the bytes besides weights and plan. Known before anything is encoded."""
        ...

    @property
    def metadata(self) -> tuple[KV, ...]:
        """What the file says of the encoder, no local paths. Keys, types and lengths are final from the beginning;
        numbers that are known only when all is encoded are 0 until then."""
        ...

    @property
    def covers(self) -> Container[str] | None:
        """Names of the tensors that it has importance for; None where it has none at all."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it."""
        ...

    @property
    def held_nbytes(self) -> int:
        """Bytes that stay in memory while slabs are encoded."""
        ...

    @property
    def bytes_per_weight(self) -> int:
        """Bytes that each weight of a slab in work takes."""
        ...

    @property
    def rows_together(self) -> Mapping[str, int]:
        """Rows that are encoded together, by tensor; others are encoded one by one."""
        ...

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array, first: int = 0) -> U8Array: ...

    def of_expert(self, planned: PlannedTensor, expert: int) -> ExpertEncoder:
        """The same for one expert, to be called elsewhere."""
        ...

    def count(self, planned: PlannedTensor, tally: Tally) -> None:
        """What an expert's encoder counted elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class PlainRows:
    """The `ExpertEncoder` that searches with importance, (n_per_row,), or without. There is nothing to count."""

    qtype: quant.QuantType
    importance: F32Array | None
    encoder: quant.Encoder

    @property
    def nbytes(self) -> int:
        return 0 if self.importance is None else self.importance.nbytes

    def __call__(self, w: F32Array, first: int = 0) -> tuple[U8Array, Tally]:
        blocks = quant.quantize(
            w, self.qtype, importance=self.importance, encoder=self.encoder, allow_nonfinite=True
        )  # fmt: skip
        return blocks, {}


class PlainEncoder:
    """Encodes every expert on its own, each with its own importance where there is any.

    Importance of experts that were hardly seen leans on their layer, but where llama.cpp's exact bytes are wanted.
    """

    bytes_per_weight = BYTES_PER_WEIGHT
    rows_together = ONE_BY_ONE

    def __init__(
        self, name: quant.Encoder = quant.Encoder.GGUFKIT, imatrix: Imatrix | None = None, file: Path | None = None
    ):
        self.name, self.imatrix = name, imatrix
        self.covers = imatrix.entries if imatrix else None
        self.notes = imatrix.notes if imatrix else ()
        self._file = file
        self._sha256 = _sha256(file) if file else ""
        self.held_nbytes = file.stat().st_size if file else 0

    @property
    def identity(self) -> str:
        return f"{self.name} {self._sha256}"

    @property
    def metadata(self) -> tuple[KV, ...]:
        if self.imatrix is None or self._file is None:
            return ()
        string, u32 = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32
        rows = [KV("quantize.imatrix.file", string, self._file.name)]
        if self.imatrix.datasets:
            rows.append(KV("quantize.imatrix.dataset", string, Path(self.imatrix.datasets[0]).name))
        rows.append(KV("quantize.imatrix.entries_count", u32, len(self.imatrix.entries)))
        rows.append(KV("quantize.imatrix.chunks_count", u32, self.imatrix.chunk_count))
        rows.append(KV("ggufkit.imatrix.sha256", string, self._sha256))
        return tuple(rows)

    def __call__(self, planned: PlannedTensor, expert: int, w: F32Array, first: int = 0) -> U8Array:
        return self.of_expert(planned, expert)(w, first)[0]

    def of_expert(self, planned: PlannedTensor, expert: int) -> PlainRows:
        importance = None
        if self.imatrix is not None and planned.qtype.is_quantized:
            exact = self.name is quant.Encoder.GGML
            of = self.imatrix.importance_of if exact else self.imatrix.shrunk_importance_of
            importance = of(planned.name, expert)
        return PlainRows(planned.qtype, importance, self.name)

    def count(self, planned: PlannedTensor, tally: Tally) -> None:
        """There is nothing to count."""


def plain_encoder(settings: QuantizeSettings, model: Model) -> PlainEncoder:
    """The encoder that the settings name, with their importance file. Raises ImatrixError for one of another model."""
    path = settings.imatrix
    if path is None:
        return PlainEncoder(settings.encoder)
    if not path.exists():
        raise ImatrixError(f"{path} does not exist. Pass the importance file that goes with this model.")
    imatrix = read_imatrix(path)
    try:
        return PlainEncoder(settings.encoder, imatrix.check_matches(model), path)
    except ImatrixError as error:
        raise ImatrixError(f"{path}: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
