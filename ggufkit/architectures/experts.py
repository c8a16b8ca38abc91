"""Experts of a layer that have tensors of their own, gathered into the 3-D stacks of GGUF. Headers only."""

import re
from collections.abc import Mapping

from ggufkit.architectures.bends import model_tensor
from ggufkit.architectures.config import Config
from ggufkit.architectures.family import Experts, Family
from ggufkit.architectures.sizes import n_expert
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import ModelTensor
from ggufkit.formats.tensor import TensorRef


class Stacker:
    """Takes tensors one by one and gives the stacks of a layer when its last expert has come."""

    def __init__(self, family: Family, experts: Experts, config: Config) -> None:
        self.family = family
        self.experts = experts
        self.config = config
        self.n_expert = n_expert(config)
        self.seen: dict[int, dict[str, dict[int, TensorRef]]] = {}  # layer → part → expert
        parts = "|".join(map(re.escape, experts.parts))
        self._name = re.compile(
            rf"model\.layers\.(\d{{1,5}})\.{re.escape(experts.prefix)}\.(\d{{1,5}})\.({parts})\.weight"
        )

    def take(self, ref: TensorRef, name: str) -> list[ModelTensor] | None:
        """None where `name` is not an expert; otherwise the stacks that it completes. Raises CheckpointError."""
        match = self._name.fullmatch(name)
        if match is None:
            return None
        layer, expert, part = int(match[1]), int(match[2]), match[3]
        self._check(ref, layer, expert, part)
        seen = self.seen.setdefault(layer, {})
        seen.setdefault(part, {})[expert] = ref
        if sum(map(len, seen.values())) < self.n_expert * len(self.experts.parts):
            return []
        return [self._stack(layer, part, seen[part]) for part in self.experts.parts]

    def check_complete(self) -> None:
        """Raises CheckpointError that names the first absent tensor of an incomplete layer."""
        for layer, seen in sorted(self.seen.items()):
            for part in self.experts.parts:
                for i in range(self.n_expert):
                    if i not in seen.get(part, {}):
                        name = f"model.layers.{layer}.{self.experts.prefix}.{i}.{part}.weight"
                        raise CheckpointError(
                            f"{self.config.folder}: layer {layer} lacks {name} (expert {i} of {self.n_expert}). "
                            "Is a shard missing?"
                        )

    def _check(self, ref: TensorRef, layer: int, expert: int, part: str) -> None:
        check_layer(ref, layer, self.family.n_layer(self.config))
        if expert >= self.n_expert:
            raise CheckpointError(f"{ref.name}: config.json says {self.n_expert} experts. They do not belong together.")
        stack = f"blk.{layer}.{self.experts.parts[part]}.weight"
        shape = self.family.shape_of(self.config, stack)
        if shape is None:
            raise CheckpointError(
                f"{ref.file.path}: {ref.name} is an expert, config.json says that layer {layer} has none."
            )
        check_shape(ref, ref.shape, shape[1:])

    def _stack(self, layer: int, part: str, seen: Mapping[int, TensorRef]) -> ModelTensor:
        refs = [seen[i] for i in range(self.n_expert)]
        for ref in refs:
            if ref.dtype != refs[0].dtype:
                raise CheckpointError(
                    f"{ref.name} is {ref.dtype}, {refs[0].name} is {refs[0].dtype}. A stack has one type."
                )
        return model_tensor(f"blk.{layer}.{self.experts.parts[part]}.weight", (self.n_expert, *refs[0].shape), refs)


class Stacks:
    """Numbered matrices outside the layers that are one tensor in GGUF: given when the last has come."""

    def __init__(self, family: Family, config: Config) -> None:
        self.family = family
        self.config = config
        self.seen: dict[str, dict[int, TensorRef]] = {}

    def take(self, ref: TensorRef, name: str) -> list[ModelTensor] | None:
        """None where `name` is no such matrix; otherwise the stack that it completes. Raises CheckpointError."""
        match = re.fullmatch(r"(.+)\.(\d{1,2})\.weight", name)
        stack = self.family.stacks.get(match[1]) if match else None
        shape = self.family.shape_of(self.config, stack) if stack else None
        if match is None or stack is None or shape is None or int(match[2]) >= shape[0]:
            return None
        check_shape(ref, ref.shape, shape[1:])
        seen = self.seen.setdefault(stack, {})
        seen[int(match[2])] = ref
        return [model_tensor(stack, shape, [seen[i] for i in range(shape[0])])] if len(seen) == shape[0] else []


def check_layer(ref: TensorRef, layer: int, n_layer: int) -> None:
    if layer >= n_layer:
        raise CheckpointError(f"{ref.name}: config.json says {n_layer} layers. They do not belong together.")


def check_shape(ref: TensorRef, got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raises CheckpointError where a tensor has not the shape that config.json promises."""
    if got != wanted:
        raise CheckpointError(
            f"{ref.name}: shape {list(got)}, config.json says {list(wanted)}. They do not belong together."
        )
