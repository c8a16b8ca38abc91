"""Some layers of a model as a model of their own, which llama.cpp loads.

    blk.17.*            ->  blk.0.*                  block_count 1; of entries with one value a layer, the layer's
    token_embd, output  ->  a row for each wanted id, or a few rows of zeros where the stream comes in from outside
    output_norm, RoPE factors and what else stands outside the layers stays; the tokenizer goes

Knows a model's names and metadata. Does not know whether the cut model computes what the layers compute in the whole
one: families go by the number of a layer, carry state or share tensors; see `agreement`.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

import quant
from ggufkit.errors import EngineError
from ggufkit.formats.model import KV, Model, ModelTensor
from ggufkit.formats.source_file import MemoryFile
from ggufkit.formats.tensor import TensorRef
from ggufkit.recipes.quantizable import layer_of

I32Array = NDArray[np.int32]

_SMALL = ("Q2_K", "Q4_0")
N_DUMMY = 32  # rows of a vocabulary that is never used
_HEAD = ("output.weight", "output.bias")
_LEADING_DENSE = "leading_dense_block_count"
_KEPT_GENERAL = ("general.architecture", "general.alignment")
_NOT_BY_LAYER = ("rope.dimension_sections",)  # arrays of a few values that are not one a layer
# Architectures whose layers were compared (tests/fitting/test_cut.py). In others a layer alone may end the process.
CUTTABLE = (
    "deepseek2",
    "dots1",
    "ernie4_5",
    "ernie4_5-moe",
    "exaone4",
    "gemma2",
    "gemma3",
    "granite",
    "hunyuan-dense",
    "llama",
    "mistral4",
    "olmoe",
    "phi2",
    "phi3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
)
# Every so many layers attention sees the whole context instead of a window; where the first of them does, True. Counted
# by the layer's number where the file does not say it. Source: load_swa_pattern of llama.cpp's models.
_WINDOWS = {"gemma2": (2, False), "gemma3": (6, False)}
# What is computed goes by how many layers the model has. Source: load_arch_hparams of llama.cpp's models.
_BY_N_LAYER = {
    "deepseek2": (26, 27, 47, 48),
    "mistral4": (26, 27, 47, 48),
    "exaone4": (64,),
    "gemma2": (46,),
    "gemma3": (62,),
}
_SCALED = ("gemma", "gemma2")  # whatever goes in is scaled as embeddings are. Source: gemma.cpp, gemma2.cpp
_PATTERN = "attention.sliding_window_pattern"
_NO_VOCABULARY = KV("tokenizer.ggml.model", GGUFValueType.STRING, "no_vocab")


def cut(model: Model, first: int, stop: int, *, ids: I32Array | None = None) -> Model:
    """Layers [first, stop) of `model`.

    ids  (n,) the tokens of the cut model's vocabulary, by their ids in the whole one; None where it will be fed with
         rows of the stream (`Engine.decode`)

    The file may hold more layers than the cut model's `hparams` count: where llama.cpp wants one that looks at a window
    only and none of these does, and where it tells a model by its number of layers. They are never computed, and their
    weights are a hole: tensors without parts.

    Raises EngineError for families that cannot be cut yet.
    """
    hparams = model.hparams
    if not is_cuttable(model):
        raise EngineError("its layers have never been compared")
    tensors = [_renamed(t, layer_of(t.name) - first) for t in model.tensors if first <= layer_of(t.name) < stop]
    tensors += [_outer(t, model, ids) for t in model.tensors if layer_of(t.name) < 0]
    for layer in range(stop - first, _n_in_file(model, first, stop)):
        tensors += [_hole(_renamed(t, layer)) for t in model.tensors if layer_of(t.name) == stop - 1]
    n_vocab = N_DUMMY if ids is None else len(ids)
    return Model(
        hparams=dataclasses.replace(hparams, n_layer=stop - first, n_vocab=n_vocab),
        metadata=tuple(_metadata(model, first, stop, n_vocab, scaled=ids is None)),
        tensors=tuple(tensors),
        source=model.source,
    )


def cut_head(model: Model) -> Model:
    """What stands behind the last layer: a model fed with rows of the stream that gives the whole model's logits. Its
    layer adds nothing: its matrices and biases are a hole. Norms and routers stay, as gates divide by what they give.
    """
    last = model.hparams.n_layer - 1
    part = cut(model, last, last + 1)
    n_cut, n_layer = _n_in_file(model, last, last + 1), 1 + _lacks_window(model, last, last + 1)
    unused = "token_embd.weight" if any(t.name == "output.weight" for t in model.tensors) else ""
    head = dataclasses.replace(
        part,
        hparams=dataclasses.replace(model.hparams, n_layer=0),
        metadata=tuple(_of_head(kv, model, n_cut, n_layer) for kv in part.metadata),
        tensors=tuple(t if _is_vector(t) else _hole(t) for t in part.tensors if 0 <= layer_of(t.name) < n_layer)
        + tuple(_hole(t) if t.name == unused else t for t in model.tensors if layer_of(t.name) < 0),
    )
    return _with_query_rank(head) if n_cut > n_layer and model.hparams.arch == "deepseek2" else head


def _is_vector(tensor: ModelTensor) -> bool:
    """Norms and routers."""
    return tensor.name.endswith(".weight") and (tensor.keep_f32 or len(tensor.shape) == 1 or tensor.n_rows == 1)


def _hole(tensor: ModelTensor) -> ModelTensor:
    """Zeros in a file, of a small type: they are mapped like everything else."""
    fits = not tensor.keep_f32 and len(tensor.shape) > 1
    small = next((name for name in _SMALL if fits and tensor.n_per_row % quant.quant_type(name).block_size == 0), None)
    return dataclasses.replace(tensor, parts=(), bend=None, dtype=small or tensor.dtype)


def _with_query_rank(head: Model) -> Model:
    """A DeepSeek that is not told to be a Lite by its number of layers has queries of low rank."""
    tensors = []
    for t in head.tensors:
        if t.name != "blk.0.attn_q.weight":
            tensors.append(t)
            continue
        shapes = {"attn_q_a": (N_DUMMY, t.shape[1]), "attn_q_a_norm": (N_DUMMY,), "attn_q_b": (t.shape[0], N_DUMMY)}
        tensors += [
            dataclasses.replace(_hole(t), name=f"blk.0.{name}.weight", shape=shape, dtype="F32")
            for name, shape in shapes.items()
        ]
    rank = KV("deepseek2.attention.q_lora_rank", GGUFValueType.UINT32, N_DUMMY)
    return dataclasses.replace(head, metadata=(*head.metadata, rank), tensors=tuple(tensors))


def _of_head(kv: KV, model: Model, n_cut: int, n_layer: int) -> KV:
    """An entry of a cut model of `n_cut` layers, for one of `n_layer` with the whole vocabulary."""
    key = kv.key.removeprefix(f"{model.hparams.arch}.")
    if key == "vocab_size":
        return dataclasses.replace(kv, value=model.hparams.n_vocab)
    if key in ("block_count", _LEADING_DENSE):
        return dataclasses.replace(kv, value=min(int(kv.value), n_layer))
    if kv.type is GGUFValueType.ARRAY and len(kv.value) == n_cut and key not in _NOT_BY_LAYER:
        return dataclasses.replace(kv, value=list(kv.value)[:n_layer])
    return kv


def whole_name(name: str, layer: int) -> str:
    """What a tensor of the file of one layer is called in the whole model."""
    return f"blk.{layer}.{name.removeprefix('blk.0.')}" if name.startswith("blk.0.") else name


def kinds_repeat_after(model: Model) -> int:
    """Layers after which what layers do by their number begins anew; 1 where it does not go by the number."""
    return _window_pattern(model)[0]


def is_cuttable(model: Model) -> bool:
    """Whether the family's layers have been compared; the model's own are before it is run. Layers that guess further
    tokens stand behind all others and are not run."""
    return model.hparams.arch in CUTTABLE and not model.hparams.n_mtp


def input_scale(model: Model) -> float:
    """What rows that are fed in are multiplied with before the first layer sees them, because embeddings are."""
    return math.sqrt(model.hparams.n_embd) if model.hparams.arch in _SCALED else 1.0


def _n_in_file(model: Model, first: int, stop: int) -> int:
    """Layers that the file of a cut model says it has."""
    hparams = model.hparams
    if hparams.n_layer in _BY_N_LAYER.get(hparams.arch, ()):
        return hparams.n_layer
    return stop - first + _lacks_window(model, first, stop)


def _renamed(tensor: ModelTensor, layer: int) -> ModelTensor:
    rest = tensor.name.removeprefix(f"blk.{layer_of(tensor.name)}.")
    return dataclasses.replace(tensor, name=f"blk.{layer}.{rest}")


def _outer(tensor: ModelTensor, model: Model, ids: I32Array | None) -> ModelTensor:
    if tensor.name == "token_embd.weight":
        return _zeros(tensor, N_DUMMY) if ids is None else _rows_of(tensor, ids)
    if tensor.name in _HEAD:
        return _zeros(tensor, N_DUMMY if ids is None else len(ids))
    if tensor.shape[0] == model.hparams.n_vocab:
        raise EngineError(f"{tensor.name} has a row for each token")
    return tensor


def _zeros(like: ModelTensor, n: int) -> ModelTensor:
    return _held(like, np.zeros((n, *like.shape[1:]), dtype=np.float32), "F32")


def _rows_of(tensor: ModelTensor, ids: I32Array) -> ModelTensor:
    """The rows of `ids`, as exactly as they are stored."""
    dtype = tensor.dtype if tensor.dtype in ("BF16", "F16") else "F32"
    qtype = quant.quant_type(dtype)
    rows = np.empty((len(ids), qtype.row_nbytes(tensor.n_per_row)), dtype=np.uint8)
    for i, token in enumerate(ids):
        rows[i] = quant.quantize(tensor.rows(0, int(token), int(token) + 1), qtype, allow_nonfinite=True)[0]
    return _held(tensor, rows, dtype, shape=(len(ids), tensor.n_per_row))


def _held(like: ModelTensor, values: NDArray[Any], dtype: str, *, shape: tuple[int, ...] | None = None) -> ModelTensor:
    raw = values.tobytes()
    place = MemoryFile(Path(like.name), raw)
    shape = shape or values.shape
    return ModelTensor(like.name, shape, dtype, (TensorRef(like.name, shape, dtype, place, 0, len(raw)),))


def _metadata(model: Model, first: int, stop: int, n_vocab: int, *, scaled: bool) -> list[KV]:
    """Entries of the cut model. `scaled`: embeddings come in as the first layer is to see them."""
    arch, u32 = model.hparams.arch, GGUFValueType.UINT32
    out = [kv for kv in model.metadata if kv.key in _KEPT_GENERAL]
    for kv in model.metadata:
        key = kv.key.removeprefix(f"{arch}.")
        if key == kv.key or key in ("block_count", "vocab_size", _PATTERN):
            continue
        out.append(_of_layers(kv, key, model, first, stop))
        if key == "embedding_scale" and scaled:
            out[-1] = dataclasses.replace(kv, value=1.0)
    return [
        *out,
        *_windows(model, first, stop),
        KV(f"{arch}.block_count", u32, _n_in_file(model, first, stop)),
        KV(f"{arch}.vocab_size", u32, n_vocab),
        _NO_VOCABULARY,
    ]


def _windows(model: Model, first: int, stop: int) -> list[KV]:
    """Which layers look at a window only, as a file says it that does not leave it to the layers' numbers."""
    key = f"{model.hparams.arch}.{_PATTERN}"
    kinds = _window_kinds(model)
    if not kinds:
        return [kv for kv in model.metadata if kv.key == key]
    more = _n_in_file(model, first, stop) - (stop - first)
    return [KV(key, GGUFValueType.ARRAY, [*kinds[first:stop], *[True] * more], GGUFValueType.BOOL)]


def _lacks_window(model: Model, first: int, stop: int) -> bool:
    kinds = _window_kinds(model)
    return any(kinds) and not any(kinds[first:stop])


def _window_kinds(model: Model) -> list[bool]:
    """Of every layer, whether it looks at a window only; empty where a family does not tell them apart."""
    stated = model.kv(f"{model.hparams.arch}.{_PATTERN}")
    n_layer = model.hparams.n_layer
    if stated is not None and not isinstance(stated, int):
        return [bool(value) for value in stated] if len(stated) == n_layer else []
    every, dense_first = _window_pattern(model)
    full = 0 if dense_first else every - 1
    return [layer % every != full for layer in range(n_layer)] if every > 1 else []


def _window_pattern(model: Model) -> tuple[int, bool]:
    arch = model.hparams.arch
    every, dense_first = _WINDOWS.get(arch, (1, False))
    stated = model.kv(f"{arch}.{_PATTERN}")
    if every > 1 and isinstance(stated, int) and stated > 0:
        every = stated
    return (every, dense_first) if model.kv(f"{arch}.attention.sliding_window") else (1, False)


def _of_layers(kv: KV, key: str, model: Model, first: int, stop: int) -> KV:
    """The entry for these layers, and for those behind them that are like the last one."""
    n_in_file = _n_in_file(model, first, stop)
    if kv.type is GGUFValueType.ARRAY and len(kv.value) == model.hparams.n_layer and key not in _NOT_BY_LAYER:
        values = list(kv.value)[first:stop]
        return dataclasses.replace(kv, value=values + values[-1:] * (n_in_file - len(values)))
    if key == _LEADING_DENSE:
        n_dense = min(max(int(kv.value) - first, 0), stop - first)
        return dataclasses.replace(kv, value=n_in_file if n_dense == stop - first else n_dense)
    return kv
