"""`Finder`: takes a tensor's parts out of a checkpoint's tensors, checked, and counts what was found."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ggufkit.errors import CheckpointError
from ggufkit.formats.packed.ref import Packed, packed_ref
from ggufkit.formats.tensor import TensorRef

DECODED = "BF16"  # what a conversion stores of them; float32 holds every one of their values
INTEGERS = ("I32", "U32")
FLOATS = ("F32", "F16", "BF16")


@dataclass(slots=True)
class Finder:
    """What a format's function asks for its parts.

    config  config.json's quantization_config
    keep    MXFP4 stays what it is
    used    names of the parts that were taken
    found   tensors of each format, by its name for people
    """

    tensors: Mapping[str, TensorRef]
    config: Mapping[str, Any]
    keep: bool
    used: set[str] = field(default_factory=set)
    found: dict[str, int] = field(default_factory=dict)

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

    def made(
        self, what: str, name: str, shape: tuple[int, ...], codes: TensorRef, packed: Packed, *, dtype: str = DECODED
    ) -> TensorRef:
        """The decoded tensor in the place of its parts, counted under the format's name."""
        self.used.add(codes.name)
        self.found[what] = self.found.get(what, 0) + 1
        return packed_ref(name, shape, dtype, codes, packed)


def config_groups(finder: Finder) -> list[Mapping[str, Any]]:
    """What compressed-tensors' quantization_config says of the weights, a group a kind of layer; at least one."""
    groups = finder.config.get("config_groups")
    found = (
        [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        if isinstance(groups, dict)
        else []
    )
    return [weights for weights in found if isinstance(weights, dict)] or [{}]


def weight_group(finder: Finder) -> Mapping[str, Any]:
    return config_groups(finder)[0]


def match(ref: TensorRef, shape: Iterable[int]) -> None:
    wanted = tuple(shape)
    if ref.shape != wanted:
        raise CheckpointError(f"{ref.file.path}: {ref.name} has shape {list(ref.shape)}, wanted {list(wanted)}.")
