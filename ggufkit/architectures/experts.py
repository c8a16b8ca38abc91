"""Experts of a layer, gathered into the 3-D stacks of GGUF. Headers only; no weight is read.

Knows both spellings: a tensor for each expert and projection, and transformers 5's one tensor for all experts, whose
gate_up_proj holds the rows of gate, then those of up, for every expert:

    (n_expert, 2 * n_ff, n_embd)   expert 0: [gate rows | up rows], expert 1: [gate rows | up rows], …
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ggufkit.architectures.config import Config
from ggufkit.architectures.family import Experts, Shape
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import ModelTensor
from ggufkit.formats.tensor import TensorRef

_FUSED = {"gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"), "down_proj": ("ffn_down_exps",)}


@dataclass(slots=True)
class _Layer:
    """Experts of one layer seen so far: part → expert → tensor."""

    seen: dict[str, dict[int, TensorRef]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(map(len, self.seen.values()))


class Stacker:
    """Takes tensors one by one and gives the stacks of a layer when its last expert has come."""

    def __init__(self, experts: Experts, config: Config) -> None:
        self.experts = experts
        self.config = config
        self.n_expert = config.integer("num_local_experts", "num_experts")
        self.layers: dict[int, _Layer] = {}
        parts = "|".join(map(re.escape, experts.parts))
        prefix = re.escape(experts.prefix)
        self._single = re.compile(rf"model\.layers\.(\d{{1,5}})\.{prefix}\.(\d{{1,5}})\.({parts})\.weight")
        self._fused = re.compile(
            rf"model\.layers\.(\d{{1,5}})\.(?:{prefix}|mlp\.experts)\.(gate_up_proj|down_proj)(?:\.weight)?"
        )

    def take(self, ref: TensorRef) -> list[ModelTensor] | None:
        """None where `ref` is no expert; otherwise the stacks that it completes. Raises CheckpointError."""
        if match := self._single.fullmatch(ref.name):
            return self._add(ref, int(match[1]), int(match[2]), match[3])
        if match := self._fused.fullmatch(ref.name):
            return self._split(ref, int(match[1]), _FUSED[match[2]])
        return None

    def check_complete(self) -> None:
        """Raises CheckpointError that names the first absent tensor of an incomplete layer."""
        for layer, found in sorted(self.layers.items()):
            for part in self.experts.parts:
                for i in range(self.n_expert):
                    if i not in found.seen.get(part, {}):
                        name = f"model.layers.{layer}.{self.experts.prefix}.{i}.{part}.weight"
                        raise CheckpointError(
                            f"{self.config.folder}: layer {layer} lacks {name} (expert {i} of {self.n_expert}). "
                            "Is a shard missing?"
                        )

    def _add(self, ref: TensorRef, layer: int, expert: int, part: str) -> list[ModelTensor]:
        self._check_layer(ref, layer)
        if expert >= self.n_expert:
            raise CheckpointError(f"{ref.name}: config.json says {self.n_expert} experts. They do not belong together.")
        check_shape(ref.name, ref.shape, self.experts.shape(part), self.config)
        found = self.layers.setdefault(layer, _Layer())
        found.seen.setdefault(part, {})[expert] = ref
        if found.count < self.n_expert * len(self.experts.parts):
            return []
        return [self._stack(layer, part, found.seen[part]) for part in self.experts.parts]

    def _stack(self, layer: int, part: str, seen: Mapping[int, TensorRef]) -> ModelTensor:
        refs = tuple(seen[i] for i in range(self.n_expert))
        for ref in refs:
            if ref.dtype != refs[0].dtype:
                raise CheckpointError(
                    f"{ref.name} is {ref.dtype}, {refs[0].name} is {refs[0].dtype}. A stack has one type."
                )
        return model_tensor(f"blk.{layer}.{self.experts.parts[part]}.weight", (self.n_expert, *refs[0].shape), refs)

    def _split(self, ref: TensorRef, layer: int, stacks: tuple[str, ...]) -> list[ModelTensor]:
        self._check_layer(ref, layer)
        n_rows, n_per_row = (size(self.config) for size in self.experts.shape(self.experts.part(stacks[0])))
        wanted = (self.n_expert, len(stacks) * n_rows, n_per_row)
        if ref.shape != wanted:
            raise CheckpointError(f"{ref.name}: shape {list(ref.shape)}, config.json says {list(wanted)}.")
        nbytes = n_rows * ref.row_nbytes
        out = []
        for k, stack in enumerate(stacks):
            starts = (ref.offset + (i * len(stacks) + k) * nbytes for i in range(self.n_expert))
            parts = tuple(
                replace(ref, name=f"{ref.name}[{i}] {stack}", shape=(n_rows, n_per_row), offset=start, nbytes=nbytes)
                for i, start in enumerate(starts)
            )
            out.append(model_tensor(f"blk.{layer}.{stack}.weight", (self.n_expert, n_rows, n_per_row), parts))
        return out

    def _check_layer(self, ref: TensorRef, layer: int) -> None:
        n_layer = self.config.integer("num_hidden_layers")
        if layer >= n_layer:
            raise CheckpointError(f"{ref.name}: config.json says {n_layer} layers. They do not belong together.")


def check_shape(name: str, got: tuple[int, ...], wanted: Shape, config: Config) -> None:
    """Raises CheckpointError where a tensor has not the shape that config.json promises."""
    shape = tuple(size(config) for size in wanted)
    if got != shape:
        raise CheckpointError(
            f"{name}: shape {list(got)}, config.json says {list(shape)}. They do not belong together."
        )


def model_tensor(name: str, shape: tuple[int, ...], parts: tuple[TensorRef, ...]) -> ModelTensor:
    """A tensor whose rows keep their place; `keep_f32` by its name and dimensions."""
    dtype = "F32" if parts[0].dtype == "F64" else parts[0].dtype
    return ModelTensor(name, shape, dtype, parts, keep_f32=keep_f32(name, len(shape)))


def keep_f32(name: str, n_dims: int) -> bool:
    """Whether llama.cpp wants the tensor as F32 whatever the file's type. Source: ModelBase.prepare_tensors."""
    routers = (".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight")
    return n_dims <= 1 or name.endswith(("_norm.weight", *routers)) or not name.endswith(".weight")
