"""`Family`: what a model family is called, which tensors it has and where its hyper-parameters go. Types only.

Knows the shape of a table entry; the entries are in `families`. A size is a function of the config (`sizes`), so a
shape says what config.json promises of a tensor.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES

from ggufkit.architectures.arithmetic import Values
from ggufkit.architectures.bends import Bender, Splitter
from ggufkit.architectures.config import Config, Default, Size
from ggufkit.architectures.hparams import Rule
from ggufkit.architectures.sizes import every, n_layer
from ggufkit.formats.model import ModelTensor
from ggufkit.tokenizer import VocabKind

Shape = tuple[Size, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Layers:
    """A kind of layer: the tensors that some layers have, named without blk.N.

    at        whether layer number i is one of them; a layer may be of several kinds
    required  whether a layer must have them all
    """

    shapes: Shapes
    at: Callable[[Config, int], bool] = every
    required: bool = True


@dataclass(frozen=True, slots=True)
class Experts:
    """How experts are spelled where each has tensors of its own: model.layers.{layer}.{prefix}.{expert}.{part}.weight.

    parts  the checkpoint's word → GGUF's stack, in the order in which the converter writes them
    """

    prefix: str
    parts: Mapping[str, str]


MIXTRAL_EXPERTS = Experts(
    "block_sparse_moe.experts", {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
)
MLP_EXPERTS = Experts(
    "mlp.experts", {"down_proj": "ffn_down_exps", "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps"}
)


@dataclass(frozen=True, slots=True)
class Family:
    """One table entry.

    title      for people
    classes    config.json's `architectures` that belong here
    source     llama.cpp's converter class, where every rule can be looked up
    when       whether a config.json of one of the classes belongs here, where entries share a class: the first wins
    rules      metadata after general.*, in order; before: rules whose entries come before general.type
    roles      rules for tokens that play a role which no file of the tokenizer gives them
    after      rules whose entries come last, in place of what the vocabulary says
    whole      tensors outside the layers; layers: those of each kind of layer
    outside    more tensors outside the layers, each set where the config says so
    optional   tensors that may be absent (of layers, without blk.N.)
    bends      GGUF name without blk.N. (a pattern) → what is done to that tensor
    splits     the checkpoint's name in its layer → the GGUF tensors that it makes
    stacks     the checkpoint's name of matrices outside the layers, numbered from 0 → the GGUF tensor of them all
    renames    pattern of a checkpoint's name → what stands there instead, before names are looked up
    mtp        a name of mtp.… → its name in the block behind the layers; None: the family has no such block
    beyond     why layers past the last are left out; "" where they are an error
    computed   tensors that are made from config.json
    pre_alias  the family's name for a pre-tokenizer that it shares with others
    defaults   what transformers fills in where config.json is silent
    computes   keys of config.json that change what is computed → the values that llama.cpp's graph of the family
               computes, where they are other than `arithmetic.COMMON` says
    """

    title: str
    classes: tuple[str, ...]
    arch: MODEL_ARCH
    source: str
    rules: tuple[Rule, ...]
    vocab: tuple[VocabKind, ...]
    whole: Shapes
    layers: tuple[Layers, ...]
    defaults: Mapping[str, Default]
    when: Callable[[Mapping[str, Any]], bool] = lambda values: True
    before: tuple[Rule, ...] = ()
    outside: tuple[tuple[Shapes, Callable[[Config], bool]], ...] = ()
    optional: Shapes = field(default_factory=dict)
    bends: Mapping[str, Bender] = field(default_factory=dict)
    splits: Mapping[str, Splitter] = field(default_factory=dict)
    stacks: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    mtp: Mapping[str, str] | None = None
    beyond: str = ""
    experts: Experts | None = None
    computed: Callable[[Config], Iterable[ModelTensor]] | None = None
    pre_alias: Mapping[str, str] = field(default_factory=dict)
    after: tuple[Rule, ...] = ()
    roles: tuple[Rule, ...] = ()
    computes: Mapping[str, Values] = field(default_factory=dict)
    n_layer: Size = n_layer

    @property
    def arch_name(self) -> str:
        return str(MODEL_ARCH_NAMES[self.arch])

    def shape_of(self, config: Config, name: str) -> tuple[int, ...] | None:
        """What config.json promises of the GGUF tensor `name`; None where the family has no such tensor."""
        if match := re.match(r"blk\.(\d+)\.", name):
            layer, bare = int(match[1]), name[match.end() :]
            places = [kind.shapes for kind in self.layers if kind.at(config, layer)]
        else:
            bare, places = name, self._whole(config)
        shape = next((shapes[bare] for shapes in (*places, self.optional) if bare in shapes), None)
        return None if shape is None else tuple(size(config) for size in shape)

    def bent(self, config: Config, tensor: ModelTensor) -> ModelTensor:
        """The tensor after all of its bends."""
        bare = re.sub(r"^blk\.\d+\.", "", tensor.name)
        for pattern, bend in self.bends.items():
            if fnmatchcase(bare, pattern):
                tensor = bend(config, tensor)
        return tensor

    def required(self, config: Config) -> Iterable[str]:
        """Names of the GGUF tensors without which llama.cpp does not load the model."""
        tied = config.get("tie_word_embeddings") is True
        whole = (name for shapes in self._whole(config) for name in shapes)
        yield from (name for name in whole if not (tied and name.startswith("output.")))
        for i in range(self.n_layer(config)):
            for kind in self.layers:
                if kind.required and kind.at(config, i):
                    yield from (f"blk.{i}.{name}" for name in kind.shapes)

    def _whole(self, config: Config) -> list[Shapes]:
        return [self.whole, *(shapes for shapes, when in self.outside if when(config))]
