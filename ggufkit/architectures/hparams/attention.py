"""Rules of attention: windows, latent attention, linear attention, and what llama.cpp takes for granted of it."""

from collections.abc import Iterable

from gguf import GGUFValueType, Keys

from ggufkit.architectures.config import Config, even_head_dim
from ggufkit.architectures.hparams.rule import F32, U32, Rule
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import KV


def sliding_window(config: Config, arch: str) -> Iterable[KV]:
    """0 stands for none: so llama.cpp tells Phi-4 from older Phi-3 files that lack the entry."""
    window = config.checked_integer("sliding_window", config.get("sliding_window") or 0, low=0)
    yield KV(Keys.Attention.SLIDING_WINDOW.format(arch=arch), U32, window)


def window_pattern(period: int) -> Rule:
    """Which layers see a window only; left out where every `period`-th layer sees all, as llama.cpp takes it to be."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        every = config.checked_integer("sliding_window_pattern", config.get("sliding_window_pattern") or period)
        flags = _windowed_layers(config, every)
        if flags != [(i + 1) % period != 0 for i in range(len(flags))]:
            yield _pattern(arch, flags)

    return rule


def olmo3_window(config: Config, arch: str) -> Iterable[KV]:
    """OLMo 3's window and the layers that see no more than it; OLMo 2 has none."""
    if config.get("sliding_window") is None:
        return
    yield KV(Keys.Attention.SLIDING_WINDOW.format(arch=arch), U32, config.integer("sliding_window"))
    yield _pattern(arch, _windowed_layers(config, 4))


def _windowed_layers(config: Config, every: int) -> list[bool]:
    """One flag a layer: as layer_types lists them, or all but every `every`-th."""
    listed = config.layer_list("layer_types")
    if listed is None:
        return [(i + 1) % every != 0 for i in range(config.integer("num_hidden_layers"))]
    return [kind == "sliding_attention" for kind in listed]


def _pattern(arch: str, flags: list[bool]) -> KV:
    key = Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch)
    return KV(key, GGUFValueType.ARRAY, flags, GGUFValueType.BOOL)


def gemma_scale(n_layer_27b: int) -> Rule:
    """No entry: llama.cpp scales attention by the width of a head, by that of the embedding's share in the 27B."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        is_27b = config.integer("num_hidden_layers") == n_layer_27b
        scale = even_head_dim(config) if is_27b else config.head_dim
        if (stated := config.get("query_pre_attn_scalar")) not in (None, scale):
            raise CheckpointError(
                f"{config.path}: query_pre_attn_scalar is {stated!r:.40}, llama.cpp computes with "
                f"{scale} in a model of this size, so the file would be another model."
            )
        return ()

    return rule


def nope_pattern(period: int) -> Rule:
    """No entry: llama.cpp leaves every `period`-th layer without RoPE. Raises CheckpointError for another pattern."""

    def rule(config: Config, arch: str) -> Iterable[KV]:
        n_layer = config.integer("num_hidden_layers")
        wanted = [int((i + 1) % period != 0) for i in range(n_layer)]
        listed, interval = config.layer_list("no_rope_layers"), config.get("no_rope_layer_interval")
        if (listed is not None and listed != wanted) or (listed is None and interval not in (None, period)):
            raise CheckpointError(
                f"{config.path}: no_rope_layers is {listed!r:.60}, llama.cpp leaves every {period}th "
                "layer without RoPE, so the file would be another model."
            )
        return ()

    return rule


def command_r_norms(config: Config, arch: str) -> Iterable[KV]:
    """No entry: llama.cpp expects norms of queries and keys from 64 layers on. Source: command-r.cpp."""
    n_layer, normed = config.integer("num_hidden_layers"), config.flag("use_qk_norm")
    if normed != (n_layer >= 64):
        raise CheckpointError(
            f"{config.path}: use_qk_norm is {normed} in a model of {n_layer} layers. llama.cpp "
            "expects these norms from 64 layers on and only there, so the file would not run."
        )
    return ()


def ministral3(config: Config, arch: str) -> Iterable[KV]:
    """Ministral 3 stretches YaRN's attention and lets queries grow with their position; Mistral Small does not."""
    if config.get("model_type") == "ministral3":
        yield KV(Keys.Rope.SCALING_YARN_LOG_MUL.format(arch=arch), F32, config.rope_number("mscale_all_dim"))
        beta = config.rope_number("llama_4_scaling_beta")
        yield KV(Keys.Attention.TEMPERATURE_SCALE.format(arch=arch), F32, beta)


def latent_attention(config: Config, arch: str) -> Iterable[KV]:
    """Sizes of DeepSeek's latent attention: the one head that is kept, and the heads it is unfolded to."""
    rank, n_rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    for key, value in (
        (Keys.Attention.KV_LORA_RANK, rank),
        (Keys.Attention.KEY_LENGTH, rank + n_rope),
        (Keys.Attention.VALUE_LENGTH, rank),
        (Keys.Attention.KEY_LENGTH_MLA, config.integer("qk_nope_head_dim") + n_rope),
        (Keys.Attention.VALUE_LENGTH_MLA, config.integer("v_head_dim")),
    ):
        yield KV(key.format(arch=arch), U32, value)


def query_rank(config: Config, arch: str) -> Iterable[KV]:
    """Rank of the queries' projection. llama.cpp tells models without one by their layers. Source: deepseek2.cpp."""
    if config.get("q_lora_rank") is not None:
        yield KV(Keys.Attention.Q_LORA_RANK.format(arch=arch), U32, config.integer("q_lora_rank"))
        return
    n_layer = config.integer("num_hidden_layers")
    if n_layer not in (26, 27) and (n_layer, config.integer("vocab_size")) != (48, 128256):
        raise CheckpointError(
            f"{config.path}: q_lora_rank is absent in a model of {n_layer} layers. llama.cpp loads "
            "such models of 26 or 27 layers alone, so the file would not run."
        )


def delta_net(config: Config, arch: str) -> Iterable[KV]:
    """Sizes of the layers with linear attention (gated delta nets), and which layers those are."""
    values = config.integer("linear_value_head_dim") * config.integer("linear_num_value_heads")
    for key, value in (
        (Keys.SSM.CONV_KERNEL, config.integer("linear_conv_kernel_dim")),
        (Keys.SSM.STATE_SIZE, config.integer("linear_key_head_dim")),
        (Keys.SSM.GROUP_COUNT, config.integer("linear_num_key_heads")),
        (Keys.SSM.TIME_STEP_RANK, config.integer("linear_num_value_heads")),
        (Keys.SSM.INNER_SIZE, values),
    ):
        yield KV(key.format(arch=arch), U32, value)
    flags = [config.is_linear(i) for i in range(config.n_layer)]
    yield KV(f"{arch}.attention.recurrent_layers", GGUFValueType.ARRAY, flags, GGUFValueType.BOOL)
    yield KV(Keys.LLM.FULL_ATTENTION_INTERVAL.format(arch=arch), U32, config.integer("full_attention_interval"))
