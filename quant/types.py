"""Types of one tensor: names, block sizes, bytes. Sizes are asked of the library, never copied by hand.

Does not know mixtures (which tensor gets which type): that is `ggufkit.recipes`.
"""

from dataclasses import dataclass
from functools import cache

from gguf import GGMLQuantizationType

from quant import _ggml
from quant.errors import ShapeError, UnknownTypeError

# Every type that a weight may be stored in, smallest first within each family.
TYPE_NAMES = (
    "F32", "F16", "BF16",
    "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0",
    "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K",
    "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
    "TQ2_0", "TQ1_0", "MXFP4",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuantType:
    """One storage type.

    name         as GGUF tools print it: Q4_K
    ggml_type    ggml's number
    block_size   weights in a block (1 for floats, 32, or 256)
    type_size    bytes of a block
    """

    name: str
    ggml_type: int
    block_size: int
    type_size: int

    @property
    def bpw(self) -> float:
        """Bits a weight."""
        return 8 * self.type_size / self.block_size

    @property
    def is_quantized(self) -> bool:
        return self.block_size > 1

    @property
    def requires_importance(self) -> bool:
        return _ggml.requires_importance(self.ggml_type)

    def row_nbytes(self, n_per_row: int) -> int:
        """Bytes of a row of `n_per_row` weights. Raises ShapeError where it does not divide into blocks."""
        if n_per_row % self.block_size:
            raise ShapeError(f"a row of {n_per_row} columns does not divide into blocks of {self.block_size} ({self})")
        return n_per_row // self.block_size * self.type_size

    def __str__(self) -> str:
        return self.name


@cache
def quant_type(name: str) -> QuantType:
    """The type of that name, in any case. Raises UnknownTypeError, which lists the known names."""
    known = {known.upper(): known for known in TYPE_NAMES}
    spelled = known.get(name.upper())
    if spelled is None:
        raise UnknownTypeError(f"unknown type {name!r}. Known: {', '.join(TYPE_NAMES)}")
    number = int(GGMLQuantizationType[spelled])
    row = _ggml.traits(number)
    return QuantType(spelled, number, row.block_size, row.type_size)


@cache
def quant_type_of(ggml_type: int) -> QuantType:
    """The type that has ggml's number `ggml_type`."""
    return quant_type(GGMLQuantizationType(ggml_type).name)
