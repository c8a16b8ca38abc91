"""`QuantPlan`: everything that will be written, complete before the first byte is encoded.

Knows types, bytes, offsets and reasons. File layout, size, memory, resume, threads and the dry run follow from it.
Does not know how a type was chosen (presets, recipes, search) nor how rows are encoded.
"""

from collections import Counter
from dataclasses import dataclass

from ggufkit.formats.model import KV, ModelTensor
from quant import QuantType


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output: what it is made from, its type, where its bytes go, and why.

    offset  from the start of the tensor data, a multiple of the alignment
    reason  a few words for the printed plan: "Q4_K_M", "attn_v, more bits", "1120 columns: Q6_K does not fit"
    wanted  the type that the mixture has there and that does not divide these rows; empty where it has its way
    """

    tensor: ModelTensor
    qtype: QuantType
    offset: int
    nbytes: int
    reason: str
    wanted: str = ""

    @property
    def name(self) -> str:
        return self.tensor.name


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """The whole output file.

    name         of the mixture or recipe: Q4_K_M, F16, "my-recipe.toml"
    file_type    llama.cpp's ftype number for general.file_type
    metadata     all entries in order, as they will stand in the header
    data_offset  bytes before the tensor data
    """

    name: str
    file_type: int
    metadata: tuple[KV, ...]
    tensors: tuple[PlannedTensor, ...]
    alignment: int
    data_offset: int

    @property
    def data_nbytes(self) -> int:
        return sum(-(-t.nbytes // self.alignment) * self.alignment for t in self.tensors)

    @property
    def file_nbytes(self) -> int:
        return self.data_offset + self.data_nbytes

    @property
    def n_weights(self) -> int:
        return sum(t.tensor.n_weights for t in self.tensors)

    @property
    def nbytes_by_type(self) -> dict[str, int]:
        """Bytes of tensors of each type, largest first."""
        sums: Counter[str] = Counter()
        for tensor in self.tensors:
            sums[tensor.qtype.name] += tensor.nbytes
        return dict(sums.most_common())

    @property
    def bpw(self) -> float:
        """Bits a weight over all tensors, header not counted."""
        return 8 * sum(t.nbytes for t in self.tensors) / self.n_weights
