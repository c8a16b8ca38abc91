"""PEFT adapters (LoRA, rsLoRA, DoRA), added to the weights of a checkpoint row by row while they are read.

Knows adapter_config.json and the names of an adapter's tensors. Does not know architectures. Nothing is computed before
rows are asked for:

    W + scale · B A                      scale = alpha / r, or alpha / sqrt(r) (rsLoRA)
    m (W + scale · B A) / |rows of it|   DoRA

Source: peft 0.17 tuners/lora/layer.py and dora.py.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import read_json
from ggufkit.formats.packed import packed_ref
from ggufkit.formats.safetensors import SafetensorsFile, open_safetensors
from ggufkit.formats.tensor import F32Array, TensorRef

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BLOCK_ROWS = 64  # products are made in blocks of so many rows, always the same ones: their bits do not depend on slabs
_PREFIX = "base_model.model."
_PARTS = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.default)?(\.weight)?"
)
_TRAINED = ".token_adapter.trainable_tokens_delta"
RESIZED = ("embed_tokens.weight", "lm_head.weight")  # they have a row a token, and a vocabulary may grow
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True)
class Merged:
    """One weight matrix with an adapter's product added. See the module.

    down       A: (r, n_per_row); up: B: (n_rows, r)
    embedding  the adapter's matrices are those of the transposed weight: down (r, n_rows), up (n_per_row, r)
    magnitude  DoRA's length of each row, or None
    """

    base: TensorRef
    down: TensorRef
    up: TensorRef
    scale: float
    embedding: bool
    magnitude: TensorRef | None

    def rows(self, start: int, stop: int) -> F32Array:
        first, last = start // BLOCK_ROWS * BLOCK_ROWS, min(-(-stop // BLOCK_ROWS) * BLOCK_ROWS, self.base.n_rows)
        blocks = [self._block(at, min(at + BLOCK_ROWS, last)) for at in range(first, last, BLOCK_ROWS)]
        return np.concatenate(blocks)[start - first : stop - first]

    def _block(self, start: int, stop: int) -> F32Array:
        if self.embedding:
            up, down = self.down.columns(start, stop), self.up.columns(0, self.up.n_per_row)
        else:
            up, down = self.up.rows(start, stop), self.down.rows(0, self.down.n_rows)
        product = np.ascontiguousarray(up) @ np.ascontiguousarray(down)
        out: F32Array = self.base.rows(start, stop) + product * np.float32(self.scale)
        if self.magnitude is not None:
            lengths = np.sqrt((out.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32)
            out *= (self.magnitude.rows(0, self.magnitude.n_rows).reshape(-1)[start:stop] / lengths)[:, None]
        return out


@dataclass(frozen=True, slots=True)
class Tokens:
    """Embeddings with some rows trained on their own (trainable_token_indices).

    trained  the new rows: (len(at), n_per_row); at: their numbers
    factor   1: they take the place of the old ones; less: so much of the way there
    """

    base: TensorRef
    trained: TensorRef
    at: NDArray[np.int64]
    factor: float

    def rows(self, start: int, stop: int) -> F32Array:
        out = np.array(self.base.rows(start, stop))
        mine = np.flatnonzero((self.at >= start) & (self.at < stop))
        if len(mine):
            new, places = self.trained.rows(0, len(self.at))[mine], self.at[mine] - start
            out[places] = new if self.factor == 1 else out[places] + np.float32(self.factor) * (new - out[places])
        return out


@dataclass(frozen=True, slots=True)
class Thin:
    """The two matrices of one weight, float32, and what their product is multiplied with.

    down  A: (r, n_per_row); up: B: (n_rows, r). Of an embedding, whose columns are tokens: (r, n_vocab), (n_embd, r)
    """

    down: F32Array
    up: F32Array
    scale: float
    embedding: bool

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that they are added to."""
        sizes = (len(self.up), self.down.shape[1])
        return sizes[::-1] if self.embedding else sizes

    @property
    def n_weights(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(slots=True)
class Adapter:
    """An opened adapter folder.

    modules   the checkpoint's module → part → tensor
    replaced  tensors that the adapter holds whole (modules_to_save)
    bases     those of them to which it adds as well: the base model's own, that peft saved along
    tokens    embeddings → the rows of tokens that were trained on their own
    """

    path: Path
    config: Mapping[str, Any]
    file: SafetensorsFile
    factor: float
    modules: dict[str, dict[str, TensorRef]] = field(default_factory=dict)
    replaced: dict[str, TensorRef] = field(default_factory=dict)
    bases: set[str] = field(default_factory=set)
    tokens: dict[str, TensorRef] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Of every byte: adapters are small."""
        digest = hashlib.sha256(repr((sorted(self.config.items(), key=str), self.factor)).encode())
        digest.update(self.file.file.pread(0, self.file.nbytes).tobytes())
        return digest.hexdigest()

    def token_numbers(self, module: str, n_vocab: int) -> NDArray[np.int64]:
        """Which rows of an embedding `tokens` holds. Raises CheckpointError."""
        stated = self.config.get("trainable_token_indices")
        if isinstance(stated, dict):
            stated = next((value for name, value in stated.items() if f".{module}".endswith(f".{name}")), None)
        listed = stated if isinstance(stated, list) else []
        if (
            not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < n_vocab for n in listed)
            or len(set(listed)) != len(listed)
            or self.tokens[module].shape[:1] != (len(listed),)
        ):
            raise CheckpointError(
                f"{self.path / CONFIG}: trainable_token_indices is {stated!r:.60}, wanted the numbers of the "
                f"{self.tokens[module].shape[0] if self.tokens[module].shape else 0} rows of {module}."
            )
        return np.array(listed, dtype=np.int64)

    def thin(self, module: str) -> Thin:
        """The matrices of one module, read. Raises CheckpointError where one is absent or they do not fit."""
        down, up, _, embedding = self.parts(module)
        a, b = (ref.rows(0, ref.n_rows) for ref in (down, up))
        return Thin(a, b, self.scale_of(module, max(len(a), 1)), embedding)

    def parts(self, module: str) -> tuple[TensorRef, TensorRef, TensorRef | None, bool]:
        """(A, B, DoRA's magnitudes, whether they are an embedding's)."""
        parts = self.modules[module]
        embedding = "lora_embedding_A" in parts
        kind = "lora_embedding_" if embedding else "lora_"
        down, up = parts.get(f"{kind}A"), parts.get(f"{kind}B")
        if down is None or up is None:
            raise CheckpointError(f"{self.path / WEIGHTS}: {module} lacks {kind}A or {kind}B.")
        if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
            raise CheckpointError(
                f"{self.path / WEIGHTS}: {module} has {kind}A {list(down.shape)} and {kind}B {list(up.shape)}, which "
                "do not fit together."
            )
        return down, up, parts.get("lora_magnitude_vector"), embedding

    @property
    def n_vocab(self) -> int | None:
        """Rows of the embeddings that it holds whole; None where it holds none."""
        rows = (ref.shape[0] for name, ref in self.replaced.items() if canonical(name) == RESIZED[0])
        return next(rows, None)

    @property
    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in TOKENIZERS)

    @property
    def alpha(self) -> float:
        """lora_alpha, of the weights for which no pattern says otherwise."""
        return self._number(self.config.get("lora_alpha", 8))

    def scale_of(self, module: str, rank: int) -> float:
        alpha, listed = self.alpha, self.config.get("alpha_pattern")
        for pattern, number in listed.items() if isinstance(listed, dict) else ():
            if module == pattern or module.endswith(f".{pattern}"):
                alpha = self._number(number)
        return self.factor * alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CheckpointError(f"{self.path / CONFIG}: lora_alpha is {value!r:.40}, wanted a number.")
        return float(value)


def open_adapter(folder: Path, factor: float = 1.0) -> Adapter:
    """Read the headers of a PEFT adapter. Raises CheckpointError for other kinds of adapter and for damaged ones.

    factor  how strongly it is added; 1 as it was trained
    """
    config = read_json(folder, CONFIG) if folder.is_dir() else None
    if config is None:
        raise CheckpointError(f"{folder} holds no {CONFIG}. Pass the folder of a PEFT adapter.")
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise CheckpointError(f"{folder / CONFIG}: peft_type is {kind!r:.40}, only LORA can be merged.")
    for key in ("lora_bias", "fan_in_fan_out", "target_parameters"):
        if config.get(key):
            raise CheckpointError(f"{folder / CONFIG}: {key} is set, which cannot be merged yet. Merge it with peft.")
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}. Save the adapter with safe_serialization=True.")
    adapter = Adapter(folder, config, open_safetensors(folder / WEIGHTS), factor)
    for name, ref in adapter.file.tensors.items():
        if ref.dtype not in _FLOATS:
            raise CheckpointError(f"{folder / WEIGHTS}: {name} is {ref.dtype}, wanted {', '.join(_FLOATS)}.")
        bare = name.removeprefix(_PREFIX)
        if match := _PARTS.fullmatch(bare):
            adapter.modules.setdefault(match["module"], {})[match["part"]] = ref
        elif bare.endswith(_TRAINED):
            adapter.tokens[bare.removesuffix(_TRAINED)] = ref
        elif bare.endswith((".weight", ".bias")):
            plain = re.sub(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)", "", bare)
            adapter.replaced[plain] = ref
            if ".base_layer." in bare:
                adapter.bases.add(plain)
        else:
            raise CheckpointError(f"{folder / WEIGHTS}: {name} is no part of a LoRA adapter that is known.")
    return adapter


def merged(tensors: Mapping[str, TensorRef], adapter: Adapter) -> dict[str, TensorRef]:
    """The tensors with the adapter's added. Raises CheckpointError for parts that have no place or do not fit."""
    out, by_canonical = dict(tensors), {canonical(name): name for name in tensors}

    def place(name: str) -> str:
        found = by_canonical.get(canonical(name))
        if found is None:
            raise CheckpointError(
                f"{adapter.path / WEIGHTS}: {name} has no place in this model. Is it an adapter of another one?"
            )
        return found

    for name, ref in adapter.replaced.items():
        rows = ref.shape[:1] if canonical(name) in RESIZED else out[place(name)].shape[:1]
        _check(adapter, ref, (*rows, *out[place(name)].shape[1:]))
        out[place(name)] = replace(ref, name=place(name))
    for module, ref in adapter.tokens.items():
        name = place(f"{module}.weight")
        base = out[name]
        _check(adapter, ref, (*ref.shape[:1], base.n_per_row))
        rows_of = Tokens(base, ref, adapter.token_numbers(module, base.n_rows), adapter.factor)
        out[name] = packed_ref(name, base.shape, _stored(base.dtype), base, rows_of)
    for module in adapter.modules:
        name = place(f"{module}.weight")
        out[name] = _merged(adapter, module, out[name])
    return out


def canonical(name: str) -> str:
    """A name whatever wrapper stood around the language model when it was written."""
    return re.sub(r"^(model\.)?(language_model\.)?(model\.)?", "", name)


def _merged(adapter: Adapter, module: str, base: TensorRef) -> TensorRef:
    down, up, magnitude, embedding = adapter.parts(module)
    if len(base.shape) != 2:
        raise CheckpointError(f"{adapter.path / WEIGHTS}: {module} is no matrix in this model.")
    rank = down.shape[0]
    n_rows, n_per_row = base.shape[::-1] if embedding else base.shape
    _check(adapter, down, (rank, n_per_row))
    _check(adapter, up, (n_rows, rank))
    if magnitude is not None:
        if adapter.factor != 1:
            raise CheckpointError(f"{adapter.path}: a DoRA adapter is added whole; leave out its factor.")
        if int(np.prod(magnitude.shape)) != base.shape[0]:
            _check(adapter, magnitude, (base.shape[0],))
    packed = Merged(base, down, up, adapter.scale_of(module, max(rank, 1)), embedding, magnitude)
    return packed_ref(base.name, base.shape, _stored(base.dtype), base, packed)


def _stored(dtype: str) -> str:
    """What a conversion stores of computed weights."""
    return {"F64": "F32", "MXFP4": "BF16"}.get(dtype, dtype)


def _check(adapter: Adapter, ref: TensorRef, wanted: tuple[int, ...]) -> None:
    if ref.shape != wanted:
        raise CheckpointError(
            f"{adapter.path / WEIGHTS}: {ref.name} has shape {list(ref.shape)}, the model wants {list(wanted)}. "
            "Is it an adapter of another model?"
        )
