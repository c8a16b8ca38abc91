"""`convert-lora`: a PEFT adapter goes in, the same adapter as a GGUF comes out, for a model that is a file already."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import quant
from ggufkit.architectures import find_family
from ggufkit.architectures.adapter import AdapterFile, as_gguf
from ggufkit.errors import CheckpointError, UsageError
from ggufkit.formats.atomic import write_atomic
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.formats.lora import open_adapter

ALIGNMENT = 32
TYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class ConvertLoraReport:
    """What was written.

    arch       of the models that the adapter fits; name: general.name
    n_adapted  weights that it changes; ranks of their matrices, least and largest
    alpha      what llama.cpp multiplies with, divided by the rank
    """

    output: str
    arch: str
    name: str
    type: str
    n_adapted: int
    ranks: tuple[int, int]
    alpha: float
    nbytes: int
    notes: tuple[str, ...] = ()


def convert_lora(adapter: Path, output: Path, *, base: Path | None = None, type: str = "F32") -> ConvertLoraReport:
    """Write the adapter in folder `adapter` as a GGUF.

    base  folder with config.json of the model that it was trained for; None takes the folder that the adapter names
    type  of its matrices: one of TYPES

    Raises CheckpointError for adapters that llama.cpp could not apply, and says what to do with them.
    """
    if type not in TYPES:
        raise UsageError(f"{type!r} is no type of an adapter. Known: {', '.join(TYPES)}.")
    opened = open_adapter(adapter)
    folder = base or _named_base(adapter, opened.config.get("base_model_name_or_path"))
    checkpoint = Checkpoint.of_config(folder)
    notes: list[str] = checkpoint.notes
    made = as_gguf(opened, find_family(checkpoint), checkpoint, notes)
    blocks = {name: _stored(array, type) for name, array in made.tensors.items()}
    rows, offset = [], 0
    for name, block in blocks.items():
        rows.append((name, made.tensors[name].shape, quant.quant_type(type).ggml_type, offset))
        offset += len(block) + -len(block) % ALIGNMENT
    header = header_bytes(made.metadata, rows, ALIGNMENT)
    write_atomic(output, [header, *(block + bytes(-len(block) % ALIGNMENT) for block in blocks.values())])
    return _report(made, output, type, len(header) + offset, tuple(dict.fromkeys(notes)))


def _named_base(adapter: Path, stated: object) -> Path:
    for folder in (Path(str(stated)), adapter / str(stated)) if isinstance(stated, str) and stated else ():
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"{adapter}: its base model {stated or ''!s:.80} is not here. Name its folder with --base; config.json is all "
        "that is needed of it."
    )


def _stored(array: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", type: str) -> bytes:
    return quant.quantize(array.reshape(-1, array.shape[-1]), quant.quant_type(type)).tobytes()


def _report(made: AdapterFile, output: Path, type: str, nbytes: int, notes: tuple[str, ...]) -> ConvertLoraReport:
    values = {kv.key: kv.value for kv in made.metadata}
    ranks = [array.shape[-1] for name, array in made.tensors.items() if name.endswith(".lora_b")]
    return ConvertLoraReport(
        output=str(output), arch=values["general.architecture"], name=values.get("general.name", ""), type=type,
        n_adapted=len(ranks), ranks=(min(ranks), max(ranks)), alpha=values["adapter.lora.alpha"], nbytes=nbytes,
        notes=notes,
    )  # fmt: skip
