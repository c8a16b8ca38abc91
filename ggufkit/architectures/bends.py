"""How a family's source tensors become GGUF's: builders of `Bend`s and of splits, named after what they do.

Knows matrices and the config. Does not know families: a table entry picks from these.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from ggufkit.architectures.config import Config, Size
from ggufkit.errors import CheckpointError
from ggufkit.formats.bend import Bend, Order, Value
from ggufkit.formats.model import ModelTensor
from ggufkit.formats.packed import Mxfp4, PackedRef
from ggufkit.formats.tensor import F32Array, TensorRef

Bender = Callable[[Config, ModelTensor], ModelTensor]
Splitter = Callable[[Config, TensorRef], Iterable[ModelTensor]]


def reordered(order: Callable[[Config], Order]) -> Bender:
    """Rows of a matrix, or elements of a vector, in another order. The order as it is changes nothing."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        wanted = order(config)
        check(len(wanted) == tensor.shape[0], tensor.parts[0], f"wanted {len(wanted)} rows")
        if np.array_equal(wanted, np.arange(len(wanted))):
            return tensor
        before = tensor.bend or Bend()
        vector = len(tensor.shape) == 1
        return replace(tensor, bend=replace(before, columns=wanted) if vector else replace(before, order=wanted))

    return bend


def reordered_columns(order: Callable[[Config], Order]) -> Bender:
    """Columns of a matrix in another order."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        wanted = order(config)
        check(len(wanted) == tensor.shape[-1], tensor.parts[0], f"wanted {len(wanted)} columns")
        if np.array_equal(wanted, np.arange(len(wanted))):
            return tensor
        return replace(tensor, bend=replace(tensor.bend or Bend(), columns=wanted))

    return bend


def chain(*benders: Bender) -> Bender:
    """One after the other."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        for each in benders:
            tensor = each(config, tensor)
        return tensor

    return bend


def squeezed(config: Config, tensor: ModelTensor) -> ModelTensor:
    """(n, 1, k) as (n, k): a convolution that mixes no channels."""
    check(len(tensor.shape) == 3 and tensor.shape[1] == 1, tensor.parts[0], "wanted one channel a filter")
    return replace(tensor, shape=(tensor.shape[0], tensor.shape[2]))


def interleaved(n_head: Size) -> Bender:
    """Interleaves the halves of every head: Hugging Face rotates (i, i + d/2), llama.cpp (2i, 2i + 1)."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        n_rows, heads = tensor.shape[0], n_head(config)
        check(n_rows % (2 * heads) == 0, tensor.parts[0], f"wanted rows that divide among the halves of {heads} heads")
        order = np.arange(n_rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
        return reordered(lambda _: order)(config, tensor)

    return bend


def changed(value: Value) -> Bender:
    """Each weight by `value`."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        return replace(tensor, bend=replace(tensor.bend or Bend(), value=value))

    return bend


def scaled(*names: str | tuple[str, int]) -> Bender:
    """Each weight times numbers of config.json, one after the other in float32; (name, i): number i of a list."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        factors = [_factor(config, *(name if isinstance(name, tuple) else (name, None))) for name in names]

        def times(w: F32Array) -> F32Array:
            for factor in factors:
                w = w * factor
            return w

        return changed(times)(config, tensor)

    return bend


def scaled_rows(name: str, names: str, rows: Callable[[Config], list[int]]) -> Bender:
    """Each weight times number `name` of config.json, then runs of rows times those of the list `names` (Falcon-H1)."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        counts = rows(config)
        factors = [_factor(config, names, i) for i in range(len(counts))]
        tensor = scaled(name)(config, tensor)
        return replace(tensor, bend=replace(tensor.bend or Bend(), scale=np.repeat(np.array(factors), counts)))

    return bend


def _factor(config: Config, name: str, place: int | None) -> np.float32:
    value = config.get(name)
    if place is not None:
        if value is not None and (not isinstance(value, list) or len(value) <= place):
            raise CheckpointError(f"{config.path}: {name} is {value!r:.80}, wanted a list of numbers.")
        value = 1.0 if value is None else value[place]
    return np.float32(config.checked_number(name, value))


def padded(n_stored: Size, n_rows: Size) -> Bender:
    """Rows of zeros behind the stored ones, for tokens that are never looked up (Gemma 3n)."""

    def bend(config: Config, tensor: ModelTensor) -> ModelTensor:
        stored, n = n_stored(config), n_rows(config)
        if tensor.shape[0] != stored or stored >= n:
            return tensor
        order = np.concatenate([np.arange(stored), np.zeros(n - stored, dtype=np.int64)])
        scale = np.repeat(np.array([1, 0], dtype=np.float32), (stored, n - stored))
        return replace(tensor, shape=(n, *tensor.shape[1:]), bend=Bend(order=order, scale=scale))

    return bend


def either(when: Callable[[Config], bool], first: Splitter, second: Splitter) -> Splitter:
    """The first where the config says so, else the second."""
    return lambda config, ref: (first if when(config) else second)(config, ref)


def halves(first: str, second: str) -> Splitter:
    """(n_expert, 2 n, k): of every expert the rows of `first`, then those of `second`."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        n_expert, n_rows, n_per_row = matrices(ref)
        check(n_rows % 2 == 0, ref, "wanted two halves")
        half = n_rows // 2
        for k, name in enumerate((first, second)):
            starts = [i * n_rows + k * half for i in range(n_expert)]
            yield model_tensor(name, (n_expert, half, n_per_row), [ref.sliced(at, at + half) for at in starts])

    return split


def stacked_rows(*names: str) -> Splitter:
    """(m n, k): the rows of each name one after the other, n each."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        check(len(ref.shape) == 2 and ref.n_rows % len(names) == 0, ref, f"wanted {len(names)} parts of equal rows")
        n = ref.n_rows // len(names)
        for i, name in enumerate(names):
            yield model_tensor(name, (n, ref.n_per_row), [ref.sliced(i * n, (i + 1) * n)])

    return split


def rows_in_turn(sizes: dict[str, Size]) -> Splitter:
    """(sum of sizes, k): the rows of each name one after the other, as many as its size says."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        counts = [size(config) for size in sizes.values()]
        check(len(ref.shape) == 2 and ref.n_rows == sum(counts), ref, f"wanted {sum(counts)} rows")
        start = 0
        for name, n in zip(sizes, counts, strict=True):
            yield model_tensor(name, (n, ref.n_per_row), [ref.sliced(start, start + n)])
            start += n

    return split


def rows_of_groups(n_group: Size, sizes: Callable[[Config], dict[str, list[int]]]) -> Splitter:
    """(n_group (a + b + …), k): the rows of each group lie together; those that belong to one tensor are drawn out.

    sizes  of each tensor: which runs of a group's rows are its own, as [start, stop, start, stop, …]
    """

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        groups = n_group(config)
        check(len(ref.shape) == 2 and ref.n_rows % groups == 0, ref, f"wanted rows of {groups} groups")
        numbers = np.arange(ref.n_rows).reshape(groups, -1)
        for name, runs in sizes(config).items():
            order = np.concatenate([numbers[:, a:b].reshape(-1) for a, b in zip(runs[::2], runs[1::2], strict=True)])
            tensor = model_tensor(name, (len(order), ref.n_per_row), [ref])
            yield replace(tensor, bend=Bend(order=order))

    return split


def every_second(names: tuple[str, str]) -> Splitter:
    """(n_expert, k, 2 n), columns of both in turn: transposed and drawn apart. Of packed rows, rows in turn."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        n_expert, n_rows, n_per_row = matrices(ref)
        transposed = not is_mxfp4(ref)
        both, width = (n_per_row, n_rows) if transposed else (n_rows, n_per_row)
        check(both % 2 == 0, ref, "wanted two halves")
        for k, name in enumerate(names):
            tensor = model_tensor(name, (n_expert, both // 2, width), [ref])
            yield replace(tensor, bend=Bend(transposed=transposed, order=np.arange(k, both, 2)))

    return split


def transposed_halves(first: str, second: str) -> Splitter:
    """(n_expert, k, 2 n), columns of `first`, then those of `second`: transposed and drawn apart (Llama 4)."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        n_expert, width, both = matrices(ref)
        check(both % 2 == 0, ref, "wanted two halves")
        for k, name in enumerate((first, second)):
            tensor = model_tensor(name, (n_expert, both // 2, width), [ref])
            yield replace(tensor, bend=Bend(transposed=True, order=np.arange(k * both // 2, (k + 1) * both // 2)))

    return split


def every_second_column(names: tuple[str, str]) -> Splitter:
    """(n_expert, 2 n): elements of both in turn."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        check(len(ref.shape) == 2 and ref.n_per_row % 2 == 0, ref, "wanted two halves")
        for k, name in enumerate(names):
            tensor = model_tensor(name, (ref.shape[0], ref.n_per_row // 2), [ref])
            yield replace(tensor, bend=Bend(columns=np.arange(k, ref.n_per_row, 2)))

    return split


def transposed(name: str) -> Splitter:
    """(n_expert, n, k) as (n_expert, k, n). Packed rows are the right way round already."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        n_expert, n_rows, n_per_row = matrices(ref)
        if is_mxfp4(ref):
            yield model_tensor(name, ref.shape, [ref])
        else:
            yield replace(model_tensor(name, (n_expert, n_per_row, n_rows), [ref]), bend=Bend(transposed=True))

    return split


def absorbed(n_head: Size, n_key: Size, key: str, value: str) -> Splitter:
    """(n_head (n_key + n_value), rank): of every head the rows of `key`, transposed, and those of `value` (MLA)."""

    def split(config: Config, ref: TensorRef) -> Iterable[ModelTensor]:
        heads, first = n_head(config), n_key(config)
        n_rows, rank = ref.n_rows // heads, ref.n_per_row
        check(len(ref.shape) == 2 and ref.n_rows % heads == 0 and first < n_rows, ref, f"wanted rows of {heads} heads")
        starts = range(0, ref.n_rows, n_rows)
        keys = [ref.sliced(at, at + first) for at in starts]
        yield replace(model_tensor(key, (heads, rank, first), keys), bend=Bend(transposed=True))
        values = [ref.sliced(at + first, at + n_rows) for at in starts]
        yield model_tensor(value, (heads, n_rows - first, rank), values)

    return split


def renamed(name: str) -> Splitter:
    """The whole tensor under the GGUF name `name`."""
    return lambda config, ref: [model_tensor(name, ref.shape, [ref])]


def is_mxfp4(ref: TensorRef) -> bool:
    """Whether rows are packed, the way round in which they are multiplied."""
    return isinstance(ref, PackedRef) and isinstance(ref.packed, Mxfp4)


def matrices(ref: TensorRef) -> tuple[int, int, int]:
    """Shape of a stack of matrices. Raises CheckpointError where the tensor is not a stack."""
    check(len(ref.shape) == 3, ref, "wanted a stack of matrices")
    return ref.shape[0], ref.shape[1], ref.shape[2]


def check(fits: bool, ref: TensorRef, wanted: str) -> None:
    if not fits:
        raise CheckpointError(f"{ref.file.path}: {ref.name} has shape {list(ref.shape)}, {wanted}.")


def model_tensor(name: str, shape: tuple[int, ...], parts: Iterable[TensorRef]) -> ModelTensor:
    """A tensor that is taken over as it is; `keep_f32` by its name and dimensions."""
    stored = tuple(parts)
    dtype = "F32" if stored[0].dtype == "F64" else stored[0].dtype
    return ModelTensor(name, shape, dtype, stored, keep_f32=keep_f32(name, len(shape)), keep_stored=dtype == "MXFP4")


def keep_f32(name: str, n_dims: int) -> bool:
    """Whether llama.cpp wants the tensor as F32 whatever the file's type. Source: ModelBase.prepare_tensors."""
    small = (
        ".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight", ".ssm_conv1d.weight", ".shortconv.conv.weight",
        ".altup_correct_coef.weight", ".altup_predict_coef.weight",
    )  # fmt: skip
    return n_dims <= 1 or name.endswith(("_norm.weight", *small)) or not name.endswith(".weight")
