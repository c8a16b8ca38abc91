"""Gemma 3n: four streams that predict and correct each other, embeddings for each layer."""

import statistics
from collections.abc import Iterable

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures import hparams as hp
from ggufkit.architectures.arithmetic import ANY, Values
from ggufkit.architectures.bends import padded
from ggufkit.architectures.config import Config
from ggufkit.architectures.families.gemma import GEMMA_COMPUTES, NO_PREFIX, POST_NORMS
from ggufkit.architectures.families.gemma4 import PER_LAYER, PER_LAYER_INPUT
from ggufkit.architectures.families.parts import ATTENTION, HEAD_NORMS, TIED
from ggufkit.architectures.family import Family, Layers, Shape
from ggufkit.architectures.gemma4 import n_ple, n_ple_all, n_vocab_ple
from ggufkit.architectures.sizes import n_embd, n_vocab
from ggufkit.errors import CheckpointError
from ggufkit.formats.model import KV
from ggufkit.tokenizer import VocabKind

# What llama.cpp's graph has in numbers of its own. Source: gemma3n.cpp, models.h.
N_STREAMS, N_KV_LAYERS, N_SPARSE, SPARSITY, LAUREL_RANK, N_PLE = 4, 20, 10, 0.95, 64, 256


def n_ff(config: Config) -> int:
    """Said for every layer, and the same for all."""
    value = config.get("intermediate_size")
    each = value if isinstance(value, list) and value else [value]
    if any(one != each[0] for one in each):
        raise CheckpointError(f"{config.folder / 'config.json'}: intermediate_size is {value!r:.80}, wanted one width.")
    return config.checked_integer("intermediate_size", each[0])


def streams(config: Config) -> int:
    return N_STREAMS


def streams_squared(config: Config) -> int:
    return N_STREAMS**2


def streams_behind(config: Config) -> int:
    return N_STREAMS - 1


def laurel(config: Config) -> int:
    return LAUREL_RANK


def feed_forward(config: Config, arch: str) -> Iterable[KV]:
    widths = [n_ff(config)] * config.n_layer
    yield KV(Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch), GGUFValueType.ARRAY, widths, GGUFValueType.INT32)


def gemma3n_parameters(config: Config, arch: str) -> Iterable[KV]:
    """The converter's entries in its order. Raises CheckpointError where the graph has another number."""
    n_layer = config.n_layer
    sparsity = config.layer_list("activation_sparsity_pattern")
    shared = config.checked_integer("num_kv_shared_layers", config.get("num_kv_shared_layers"), low=0)
    sparse = [SPARSITY if i < N_SPARSE else 0.0 for i in range(n_layer)]
    kinds = config.layer_list("layer_types") or [
        "full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(n_layer)
    ]
    lenders = ["sliding_attention", "full_attention"]  # of keys and values, to the layers behind them
    for name, got, wanted in (
        ("num_kv_shared_layers", shared, max(0, n_layer - N_KV_LAYERS)),
        ("activation_sparsity_pattern", sparse if sparsity is None else sparsity, sparse),
        ("hidden_size_per_layer_input", n_ple(config), N_PLE),
        ("layer_types", kinds[N_KV_LAYERS - 2 : N_KV_LAYERS] if shared else lenders, lenders),
    ):
        if got != wanted:
            raise CheckpointError(
                f"{config.folder / 'config.json'}: {name} is {got!r:.60}, where llama.cpp computes a model of "
                f"{n_layer} layers with {wanted!r:.60}: the file would be another model."
            )
    normal, u32, array = statistics.NormalDist(), GGUFValueType.UINT32, GGUFValueType.ARRAY
    limits = [normal.inv_cdf(share) if share else float("-inf") for share in sparse]
    window = [kind == "sliding_attention" for kind in kinds]
    yield KV(Keys.LLM.ALTUP_ACTIVE_IDX.format(arch=arch), u32, 0)
    yield KV(Keys.LLM.ALTUP_NUM_INPUTS.format(arch=arch), u32, N_STREAMS)
    yield KV(Keys.LLM.EMBD_LENGTH_PER_LAYER_INP.format(arch=arch), u32, N_PLE)
    yield KV(Keys.Attention.SHARED_KV_LAYERS.format(arch=arch), u32, shared)
    yield KV(Keys.LLM.ACTIVATION_SPARSITY_SCALE.format(arch=arch), array, limits, GGUFValueType.FLOAT32)
    yield KV(Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch), array, window, GGUFValueType.BOOL)


WHOLE: dict[str, Shape] = (
    TIED
    | PER_LAYER
    | {
        "per_layer_token_embd.weight": (n_vocab, n_ple_all),
        "altup_proj.weight": (streams_behind, n_embd, n_embd),
        "altup_unembd_proj.weight": (streams_behind, n_embd, n_embd),
    }
)
STREAMS: dict[str, Shape] = {
    "altup_correct_coef.weight": (streams, streams), "altup_correct_scale.weight": (n_embd,),
    "altup_predict_coef.weight": (streams_squared, streams), "altup_router.weight": (streams, n_embd),
    "altup_router_norm.weight": (n_embd,), "laurel_l.weight": (laurel, n_embd), "laurel_r.weight": (n_embd, laurel),
    "laurel_post_norm.weight": (n_embd,),
    "ffn_gate.weight": (n_ff, n_embd), "ffn_up.weight": (n_ff, n_embd), "ffn_down.weight": (n_embd, n_ff),
}  # fmt: skip
GEMMA3N_COMPUTES: dict[str, Values] = GEMMA_COMPUTES | {
    "altup_num_inputs": (None, N_STREAMS), "altup_active_idx": (None, 0), "altup_correct_scale": (None, True),
    "laurel_rank": (None, LAUREL_RANK),
} | dict.fromkeys(
    ("num_kv_shared_layers", "hidden_size_per_layer_input", "vocab_size_per_layer_input", "altup_coef_clip"), ANY
)  # fmt: skip

GEMMA3N = Family(
    title="Gemma 3n (the language model)",
    classes=("Gemma3nForConditionalGeneration", "Gemma3nForCausalLM"),
    arch=MODEL_ARCH.GEMMA3N,
    source="conversion/gemma.py Gemma3NModel",
    rules=(
        *(feed_forward if rule is hp.FEED_FORWARD_LENGTH else rule for rule in hp.COMMON), hp.FILE_TYPE,
        hp.f32(Keys.LLM.FINAL_LOGIT_SOFTCAPPING, "final_logit_softcapping"),
        hp.u32(Keys.Attention.SLIDING_WINDOW, "sliding_window", required=True), gemma3n_parameters,
    ),
    vocab=(VocabKind.SPM, VocabKind.LLAMA_HF),
    after=NO_PREFIX,
    whole=WHOLE,
    layers=(Layers(ATTENTION | HEAD_NORMS | POST_NORMS | PER_LAYER_INPUT | STREAMS),),
    stacks={
        "model.altup_projections": "altup_proj.weight",
        "model.altup_unembed_projections": "altup_unembd_proj.weight",
    },
    bends={"per_layer_token_embd.weight": padded(n_vocab_ple, n_vocab)},
    renames={r"\.correct_output_scale$": ".correct_output_scale.weight"},
    computes=GEMMA3N_COMPUTES,
    defaults={
        "rms_norm_eps": 1e-6, "head_dim": 256, "max_position_embeddings": 32768, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 262400, "vocab_size_per_layer_input": 262144, "sliding_window": 512,
        "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 15, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0, "final_logit_softcapping": 30.0, "tie_word_embeddings": True,
    },
)  # fmt: skip
