"""general.*: what a model is called, how large it is, who made it, how to sample. As gguf-py's `Metadata` guesses it.

Knows the folder's name, the model card and generation_config.json. Does not know tensors beyond their shapes.
"""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import gguf
from gguf import GGUFValueType, Keys

from ggufkit.architectures.config import MAX_INTEGER
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import Checkpoint, read_bytes
from ggufkit.formats.model import KV, ModelTensor

MAX_CARD_BYTES = 4 << 20

# (field of gguf.Metadata, names in generation_config.json, whole number?)
_SAMPLING = (
    ("sampling_sequence", ("sequence",), str),
    ("sampling_top_k", ("top_k",), int),
    ("sampling_top_p", ("top_p",), float),
    ("sampling_min_p", ("min_p",), float),
    ("sampling_xtc_probability", ("xtc_probability",), float),
    ("sampling_xtc_threshold", ("xtc_threshold",), float),
    ("sampling_temp", ("temperature",), float),
    ("sampling_penalty_last_n", ("penalty_last_n",), int),
    ("sampling_penalty_repeat", ("penalty_repeat", "repetition_penalty"), float),
    ("sampling_mirostat", ("mirostat",), int),
    ("sampling_mirostat_tau", ("mirostat_tau",), float),
    ("sampling_mirostat_eta", ("mirostat_eta",), float),
)


def general_metadata(
    checkpoint: Checkpoint, arch: str, tensors: Iterable[ModelTensor], *, name: str | None = None
) -> tuple[KV, ...]:
    """Entries from general.type to the last general.* of the naming, in the converter's order.

    name  instead of the one guessed from the folder's name, the model card or config.json

    Raises CheckpointError where the model card's front matter cannot be understood.
    """
    counts = parameter_counts(tensors)
    try:
        metadata = _guess(checkpoint, counts[0])
        _read_sampling(metadata, checkpoint.generation_config)
        metadata.name = name or metadata.name or checkpoint.path.name
        if metadata.size_label is None and counts[0] > 0:
            metadata.size_label = gguf.size_label(*counts)
        collector = gguf.GGUFWriter(None, arch)
        collector.add_type(gguf.GGUFType.MODEL)
        metadata.set_gguf_meta_model(collector)
    except CheckpointError:
        raise
    except Exception as error:  # a stranger's YAML in gguf-py's heuristics: whatever it trips over is the card's fault
        raise CheckpointError(
            f"{checkpoint.path / 'README.md'}: its front matter is not a model card ({error}). Correct or remove it."
        ) from error
    return tuple(
        KV(key, value.type, value.value, value.sub_type or _item_type(value.value))
        for key, value in collector.kv_data[0].items()
        if key != Keys.General.ARCHITECTURE
    )


def parameter_counts(tensors: Iterable[ModelTensor]) -> tuple[int, int, int, int]:
    """(all, shared, of one expert, experts): the numbers behind a label like 8x7B."""
    shared = expert = total = n_experts = n_stacks = 0
    for tensor in tensors:
        total += tensor.n_weights
        if "_exps." in tensor.name:
            expert += tensor.n_weights // tensor.n_expert
            n_experts, n_stacks = n_experts + tensor.n_expert, n_stacks + 1
        else:
            shared += tensor.n_weights
    return total, shared, expert, n_experts // n_stacks if n_stacks else 0


def _guess(checkpoint: Checkpoint, n_weights: int) -> gguf.Metadata:
    card: dict[str, Any] = {}
    if read_bytes(checkpoint.path, "README.md", max_nbytes=MAX_CARD_BYTES):
        card = gguf.Metadata.load_model_card(checkpoint.path)
    folder = checkpoint.path.absolute()
    return gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, dict(checkpoint.config), folder, n_weights)


def _read_sampling(metadata: gguf.Metadata, declared: Mapping[str, Any]) -> None:
    for name, keys, kind in _SAMPLING:
        value = next((declared[key] for key in keys if declared.get(key) is not None), None)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if kind is float and number:
            value = float(value)
        too_large = isinstance(value, int) and abs(value) >= MAX_INTEGER
        if isinstance(value, bool) or not isinstance(value, kind) or too_large:
            raise CheckpointError(f"generation_config.json: {keys[0]} is {value!r:.80}, wanted a {kind.__name__}.")
        setattr(metadata, name, value)


def _item_type(value: Any) -> GGUFValueType | None:
    return GGUFValueType.get_type(value[0]) if isinstance(value, list) and value else None
