"""`Config`: config.json with a family's defaults filled in, read with bounds.

Knows the several places where RoPE parameters stand (transformers 4 and 5). Does not know GGUF keys.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import CONFIG

STATES = (
    "linear_attention",
    "mamba",
    "conv",
)  # kinds of layers that keep a state: transformers' word, and those before
MAX_INTEGER = 1 << 31
Default = int | float | bool | str | Callable[["Config"], Any]


class Config:
    """Values of config.json by name. A name that is absent or null has the family's default, if there is one.

    values    of a multimodal model: the values of its text_config go before those beside it
    defaults  what transformers fills in for the family: a value, or a function of the config
    notes     takes what is left out on the way, for a person to know
    name      of the file, for messages
    """

    def __init__(
        self,
        folder: Path,
        values: Mapping[str, Any],
        defaults: Mapping[str, Default],
        notes: list[str] | None = None,
        name: str = CONFIG,
    ) -> None:
        self.folder, self.path = folder, folder / name
        self.n_mtp = 0  # blocks that guess further tokens, behind the layers; known when the tensors are
        self.notes: list[str] = [] if notes is None else notes
        text = values.get("text_config")  # a model that also sees or hears keeps the language model's values there
        self._values = {**values, **text} if isinstance(text, dict) else values
        self.read: set[str] = set()
        self._defaults = defaults
        self.rope = _rope_parameters(self)

    def get(self, *names: str) -> Any:
        """The first of `names` that is set, else the first that has a default, else None."""
        self.read.update(names)
        for name in names:
            if self._values.get(name) is not None:
                return self._values[name]
        for name in names:
            if (default := self._defaults.get(name)) is not None:
                return default(self) if callable(default) else default
        return None

    def stated(self, name: str) -> Any:
        """What config.json says and nothing else; None where it is silent. Does not count as read."""
        return self._values.get(name)

    @property
    def names(self) -> Iterable[str]:
        """Every name that config.json has."""
        return self._values.keys()

    def integer(self, *names: str) -> int:
        """A required whole number of at least 1. Raises CheckpointError that names it."""
        return self.checked_integer(names[0], self.get(*names))

    def checked_integer(self, name: str, value: Any, *, low: int = 1) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 512.0: some tools write every number so
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < MAX_INTEGER:
            raise CheckpointError(f"{self.path}: {name} is {value!r:.80}, wanted a whole number ≥ {low}.")
        return value

    def checked_number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise CheckpointError(f"{self.path}: {name} is {value!r:.80}, wanted a number ≥ 0.")
        return value

    def checked_positive(self, name: str, value: Any) -> float:
        """The same for what is divided by or raised to a power."""
        if not self.checked_number(name, value):
            raise CheckpointError(f"{self.path}: {name} is 0, wanted a number above 0.")
        return float(value)

    def rope_number(self, name: str, default: float | None = None) -> float:
        """A number among the RoPE parameters. Raises CheckpointError where it is absent and has no default."""
        value = self.rope.get(name, default)
        if value is None:
            raise CheckpointError(f"{self.path}: RoPE scaling lacks {name}.")
        return self.checked_number(name, value)

    @property
    def rope_type(self) -> str:
        return str(self.rope.get("rope_type", "default")).lower()

    def flag(self, name: str) -> bool:
        return self.get(name) is True

    def layer_list(self, name: str) -> list[Any] | None:
        """One value a layer, or None where the name is absent. Raises CheckpointError for another number of values."""
        value = self.get(name)
        n_layer = self.integer("num_hidden_layers")
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != n_layer:
            raise CheckpointError(f"{self.path}: {name} is {value!r:.80}, wanted a list of {n_layer} values.")
        return value

    @property
    def n_layer(self) -> int:
        """Layers of the file: those of the model, and the blocks that guess further tokens."""
        return self.integer("num_hidden_layers") + self.n_mtp

    def is_linear(self, layer: int) -> bool:
        """Whether a layer keeps a state instead of keys and values (linear attention)."""
        listed = self.layer_list("layer_types")
        if listed is None:
            interval = self.integer("full_attention_interval")
            return layer < self.integer("num_hidden_layers") and (layer + 1) % interval != 0
        return layer < len(listed) and listed[layer] in STATES

    @property
    def rope_theta_swa(self) -> float | None:
        """Base of the layers that see a window only, where they have one of their own."""
        declared = self.get("rope_parameters") or {}
        sliding = declared.get("sliding_attention") if isinstance(declared, dict) else None
        value = sliding.get("rope_theta") if isinstance(sliding, dict) else None
        if value is None:
            value = self.get("rope_local_base_freq", "local_rope_theta", "swa_rope_theta")
        return None if value is None else self.checked_positive("rope_local_base_freq", value)

    @property
    def head_dim(self) -> int:
        """Width of one head: stated, or the embedding divided among the heads."""
        stated = self.get("head_dim")
        return self.integer("head_dim") if stated is not None else even_head_dim(self)

    @property
    def n_head_kv(self) -> int:
        value = self.get("num_key_value_heads", "n_kv_heads")
        return self.integer("num_attention_heads") if value is None else self.integer("num_key_value_heads")


def even_head_dim(config: Config) -> int:
    """The embedding divided evenly among the heads, as transformers fills in an absent head_dim."""
    n_embd, n_head = config.integer("hidden_size"), config.integer("num_attention_heads")
    if n_embd % n_head:
        raise CheckpointError(f"{config.path}: hidden_size {n_embd} does not divide among {n_head} heads.")
    return n_embd // n_head


def theta_where_windowed(config: Config) -> float | None:
    """The same RoPE base for the layers with a window, where there are such layers (OLMo 3)."""
    return None if config.get("sliding_window") is None else config.rope_number("rope_theta")


def deepseek_scoring(config: Config) -> str:
    """What makes the routers' outputs weights; transformers 5 no longer writes it down."""
    return "sigmoid" if config.get("model_type") == "deepseek_v3" else "softmax"


def leading_dense(config: Config) -> int:
    """Layers without experts, as transformers 5 lists them; one where nothing is said (GLM-4.7-Flash)."""
    listed = config.layer_list("mlp_layer_types")
    return 1 if listed is None else next((i for i, kind in enumerate(listed) if kind != "dense"), len(listed))


Size = Callable[[Config], int]


def same_as(name: str) -> Callable[[Config], int]:
    """A default that is another value of the same config."""
    return lambda config: config.integer(name)


def check_sizes(config: Config) -> None:
    """Sizes that llama.cpp divides by each other, or dies of. Raises CheckpointError that names the entry."""
    n_head, n_head_kv = config.integer("num_attention_heads"), config.n_head_kv
    n_expert, used = (
        config.get("num_local_experts", "num_experts", "n_routed_experts"),
        config.get("num_experts_per_tok"),
    )
    wrong = None
    if n_head % n_head_kv:
        wrong = f"num_key_value_heads is {n_head_kv}, wanted a divisor of the {n_head} attention heads"
    elif config.head_dim % 2:
        wrong = f"head_dim is {config.head_dim}, wanted an even number: RoPE turns pairs"
    elif isinstance(n_expert, int | float) and isinstance(used, int | float) and used > n_expert:
        wrong = f"num_experts_per_tok is {used}, wanted at most the {n_expert} experts"
    if wrong:
        raise CheckpointError(f"{config.path}: {wrong}.")


def _rope_parameters(config: Config) -> dict[str, Any]:
    """One dict whatever the spelling: `rope_parameters` (transformers 5), or `rope_scaling` beside `rope_theta` (4).

    Source: transformers 5.23, RotaryEmbeddingConfigMixin.
    """
    declared = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(declared, dict):
        raise CheckpointError(f"{config.path}: rope_scaling is {declared!r:.80}, wanted an object.")
    full = declared.get("full_attention")
    rope = dict(full if isinstance(full, dict) else declared)
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        value = config.get(name)
        # a stated original length wins over the one among the parameters, as in transformers (Phi-3)
        if value is not None and (name not in rope or name.startswith("original")):
            rope[name] = value
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    return rope
