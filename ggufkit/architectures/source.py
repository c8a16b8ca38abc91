"""Opens what a person points at: a Hugging Face folder or a GGUF file. Knows the two kinds of source, and no other."""

from collections.abc import Sequence
from pathlib import Path

from ggufkit.errors import InputError
from ggufkit.formats.files import hub_advice, shown
from ggufkit.formats.gguf_source import open_model
from ggufkit.formats.model import Model


def open_source(
    path: Path,
    *,
    allow_requantize: bool = False,
    mtp: bool = True,
    lora: Sequence[tuple[Path, float]] = (),
    outline: bool = False,
) -> Model:
    """The model at `path`: names, shapes, metadata and where the weights lie; nothing is loaded.

    allow_requantize  accept tensors that are quantized already: of a GGUF, and those that a checkpoint was trained in
    mtp               of a checkpoint: keep the block that guesses further tokens
    outline           a folder without weights will do: its rows cannot be read
    lora              folders of PEFT adapters to add to a checkpoint's weights, and how strongly

    Raises CheckpointError, TokenizerError, GgufError for a damaged source, InputError where there is none.
    """
    if path.is_dir():
        from ggufkit.architectures import convert
        from ggufkit.architectures.outline import lacks_weights
        from ggufkit.formats.checkpoint import Checkpoint
        from ggufkit.formats.lora import open_adapter

        adapters = [open_adapter(folder, factor) for folder, factor in lora]
        checkpoint = Checkpoint.of_config(path) if outline and lacks_weights(path) else Checkpoint.open(path)
        return convert(checkpoint, mtp=mtp, requantize=allow_requantize, adapters=adapters)
    if lora:
        raise InputError(f"{shown(str(path))}: an adapter is added to a Hugging Face folder, not to a GGUF.")
    if not path.exists():
        advice = hub_advice(path) or "Name a Hugging Face folder or a GGUF file."
        raise InputError(f"{shown(str(path))} does not exist. {advice}")
    beside = (path.parent / name for name in ("config.json", "params.json"))
    if path.suffix in (".safetensors", ".json") and any(each.exists() for each in beside):
        raise InputError(f"{shown(str(path))} is one file of a checkpoint. Pass its folder: {shown(str(path.parent))}")
    return open_model(path, allow_requantize=allow_requantize)
