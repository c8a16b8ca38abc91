"""What a file is besides its weights: metadata, and names and shapes of tensors; and how two such differ, in words.

Knows which keys belong to the file (they may differ), which to the model (they may not), and what a change of them
does. Reads no weights. Does not know limits or verdicts.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import gguf
import numpy as np

from ggufkit.formats.files import shown
from ggufkit.formats.model import KV, Model

_MAX_TEXT = 1 << 18  # longer strings are kept as a digest
TEMPLATE = "tokenizer.chat_template"
TOKENS = "tokenizer.ggml.tokens"

# Entries of the file, not of the model: types, splits, how it was made, who says so.
_OF_THE_FILE = ("general.file_type", "general.quantization_version", "general.alignment")
_OF_THE_FILE_PREFIXES = ("split.", "quantize.", "ggufkit.", "general.size_label", "general.quantized_by")

# What a change of a key does, by the beginning of the key without the architecture; the first that fits.
_EFFECTS = (
    ("tokenizer.ggml.pre", "text is cut into other tokens than the model was trained on"),
    ("tokenizer.ggml.add_bos_token", "prompts begin otherwise than in training"),
    ("tokenizer.ggml.add_eos_token", "prompts end otherwise than in training"),
    ("tokenizer.ggml.eos_token_id", "answers may not end"),
    ("tokenizer.ggml.eot_token_id", "answers may not end"),
    ("tokenizer.ggml.bos_token_id", "prompts begin with another token"),
    ("tokenizer.ggml.tokens", "tokens have other texts"),
    ("tokenizer.ggml.merges", "text is cut into other tokens"),
    ("tokenizer.ggml.scores", "text is cut into other tokens"),
    ("tokenizer.ggml.token_type", "control tokens are told from text otherwise"),
    (TEMPLATE, "every chat is prompted otherwise"),
    ("rope.", "positions are computed otherwise"),
    ("attention.", "attention is computed otherwise"),
    ("expert_used_count", "another number of experts is used"),
    ("expert_", "experts are weighed otherwise"),
    ("tokenizer.", "text and tokens may become one another otherwise"),
)


# What can differ: part of the file -> kinds of findings.
KINDS = {
    "metadata": ("metadata",),
    "template": ("template",),
    "tokenizer": ("tokenizer", "token"),
    "tensors": ("tensor", "shape", "type"),
    "finite": ("nan",),
    "weights": ("experts", "rows", "rope", "swapped", "alien", "scaled", "loss", "requantized"),
}


class Severity(StrEnum):
    """Whether a finding makes the file another model, or is worth knowing only."""

    ERROR = "error"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that differs.

    kind   a word for machines, see KINDS
    where  a key, or a tensor and perhaps an expert
    """

    kind: str
    where: str
    message: str
    severity: Severity = Severity.ERROR


@dataclass(frozen=True, slots=True)
class Structure:
    """Metadata by key, arrays and very long texts as digests; shapes by tensor name (numpy order).

    arrays  the arrays themselves where they are at hand, to name the item that differs
    """

    arch: str
    metadata: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    arrays: dict[str, Sequence[Any]]

    def as_dict(self) -> dict[str, Any]:
        """For a baseline's header: everything but the arrays."""
        return {"arch": self.arch, "metadata": self.metadata, "tensors": {k: list(v) for k, v in self.tensors.items()}}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From a baseline's header. Raises ValueError for a header of another form."""
        arch, metadata, tensors = (fields.get(name) for name in ("arch", "metadata", "tensors"))
        if not isinstance(arch, str) or not isinstance(metadata, dict) or not isinstance(tensors, dict):
            raise ValueError("arch, metadata or tensors are missing")
        if not all(isinstance(s, list) and all(type(n) is int for n in s) for s in tensors.values()):
            raise ValueError("shapes are not lists of whole numbers")
        return cls(arch, metadata, {name: tuple(shape) for name, shape in tensors.items()}, {})


def structure_of(model: Model) -> Structure:
    """The structure of an open model."""
    arrays = {kv.key: kv.value for kv in model.metadata if kv.type is gguf.GGUFValueType.ARRAY}
    return Structure(
        arch=model.hparams.arch,
        metadata={kv.key: stored(kv) for kv in model.metadata if not _of_the_file(kv.key)},
        tensors={t.name: t.shape for t in model.tensors},
        arrays=arrays,
    )


def compare_structure(base: Structure, candidate: Structure) -> Iterator[Finding]:
    """What differs, metadata first, in the base's order."""
    for key, value in base.metadata.items():
        if key not in candidate.metadata:
            yield _metadata_finding(base, key, f"is missing, the original has {_brief(value)}", "removed")
        elif candidate.metadata[key] != value:
            yield _changed(base, candidate, key)
    for key in candidate.metadata.keys() - base.metadata.keys():
        change = f"is {_brief(candidate.metadata[key])}, the original has none"
        yield _metadata_finding(base, key, change, "added")
    yield from _compare_tensors(base.tensors, candidate.tensors)


def _compare_tensors(base: dict[str, tuple[int, ...]], candidate: dict[str, tuple[int, ...]]) -> Iterator[Finding]:
    for name, shape in base.items():
        if name not in candidate:
            yield Finding("tensor", name, f"{name} is missing")
        elif candidate[name] != shape:
            yield Finding("shape", name, f"{name} has shape {list(candidate[name])}, the original {list(shape)}")
    for name in candidate.keys() - base.keys():
        if name == "output.weight" and "token_embd.weight" in base:
            message = "output.weight is stored, the original uses token_embd.weight for it: a larger file"
            yield Finding("tensor", name, message, Severity.NOTE)
        else:
            yield Finding("tensor", name, f"{name} is not in the original")


def _changed(base: Structure, candidate: Structure, key: str) -> Finding:
    a, b = base.metadata[key], candidate.metadata[key]
    if key == TEMPLATE and isinstance(a, str) and isinstance(b, str):
        return Finding("template", key, f"{key} differs from the original's: {_text_change(a, b)}")
    if key in base.arrays and key in candidate.arrays:
        return _metadata_finding(base, key, _array_change(base.arrays[key], candidate.arrays[key]), "changed")
    return _metadata_finding(base, key, f"is {_brief(b)}, the original has {_brief(a)}", "changed")


def _metadata_finding(base: Structure, key: str, change: str, how: str) -> Finding:
    own = key.removeprefix(f"{base.arch}.")
    effect = next((effect for start, effect in _EFFECTS if own.startswith(start)), "")
    is_descriptive = key.startswith("general.") and key != "general.architecture"
    is_models = key.startswith((f"{base.arch}.", "tokenizer."))
    is_harmless = is_descriptive or (how == "added" and not is_models)
    message = f"{key} {change}" + (f": {effect}" if effect else "")
    kind = "template" if key.startswith(TEMPLATE) else "token" if key == TOKENS else key.partition(".")[0]
    kind = kind if kind in ("template", "token", "tokenizer") else "metadata"
    return Finding(kind, key, message, Severity.NOTE if is_harmless else Severity.ERROR)


def _array_change(a: Sequence[Any], b: Sequence[Any]) -> str:
    if len(a) != len(b):
        return f"has {len(b)} items, the original {len(a)}"
    at = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    if not at:
        return "has items of another type than the original's"
    more = f" ({len(at)} items differ)" if len(at) > 1 else ""
    return f"[{at[0]}] is {_brief(b[at[0]])}, the original has {_brief(a[at[0]])}{more}"


def _text_change(a: str, b: str) -> str:
    """The first stretch that differs, with a little before it."""
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            verb = {"insert": "has been added", "delete": "has been removed"}.get(tag, f"stands for {_brief(a[a0:a1])}")
            stretch = a[a0:a1] if tag == "delete" else b[b0:b1]
            return f"{_brief(stretch)} {verb} after {_brief(a[max(0, a0 - 30) : a0])}"
    return "nothing"


def _of_the_file(key: str) -> bool:
    return key in _OF_THE_FILE or key.startswith(_OF_THE_FILE_PREFIXES)


def stored(kv: KV) -> Any:
    """An entry as a structure keeps it: arrays and very long texts as digests."""
    if kv.type is gguf.GGUFValueType.ARRAY:
        digest = hashlib.sha256(json.dumps([str(item) for item in kv.value]).encode()).hexdigest()
        return f"{len(kv.value)} items, SHA-256 {digest}"
    if isinstance(kv.value, str) and len(kv.value) > _MAX_TEXT:
        return f"{len(kv.value)} characters, SHA-256 {hashlib.sha256(kv.value.encode()).hexdigest()}"
    if kv.type is gguf.GGUFValueType.FLOAT32:
        return float(str(np.float32(kv.value)))  # as short as it can be said: 1e-05, not 9.99999974e-06
    return kv.value


def _brief(value: Any) -> str:
    return shown(json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value))
