"""Whether a model can be cut into layers: the first layers run together and one by one must give the same stream.

The layers that are run together keep their numbers, see true tokens and pass one chunk on among themselves. What goes
by a layer's number (sliding windows by a pattern), changes the embeddings on their way in, carries state or shares
tensors between layers then shows as a difference, or as a file that llama.cpp refuses.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import CutError, EngineError, GgufError
from ggufkit.fitting.sources.cut import cut, input_scale, kinds_repeat_after
from ggufkit.fitting.sources.layer_run import LayerRun
from ggufkit.fitting.sources.scratch import plan_as_it_is, write_as_it_is
from ggufkit.formats.model import Model
from ggufkit.runtime.loading import Device

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]

TOLERANCE = 1e-3  # of the largest value of a layer's output; on the processor the difference is nought
MAX_NBYTES = 512 << 20  # of layers that are run together


def check_agreement(
    model: Model,
    chunk: I32Array,
    folder: Path,
    *,
    threads: int,
    device: Device = Device.AUTO,
    max_nbytes: int = MAX_NBYTES,
) -> int:
    """Run the first layers on one chunk (n_ctx,) of ids; returns how many were compared.

    folder      for two files that are removed again
    max_nbytes  of the layers that are run together; all of them where they fit

    Raises CutError that says why the model cannot be cut.
    """
    ids, local = np.unique(chunk, return_inverse=True)
    tokens = local.astype(np.int32)
    try:
        n_layer = _prefix(model, max_nbytes)
        together = _run(cut(model, 0, n_layer, ids=ids), tokens, folder, threads, device)
        x: F32Array | I32Array = tokens
        for layer, wanted in enumerate(together):
            (x,) = _run(cut(model, layer, layer + 1, ids=None if layer else ids), x, folder, threads, device)
            apart = _difference(x, wanted)
            if not apart <= TOLERANCE:
                raise EngineError(f"alone, layer {layer} gives another output (by {apart:.1g} of its largest value)")
    except (EngineError, GgufError) as error:
        raise CutError(f"this {model.hparams.arch} model cannot be run layer by layer: {error}") from error
    return n_layer


def prefix_nbytes(model: Model) -> int:
    """Bytes of the file of layers that are run together, without the tokens' embeddings."""
    return plan_as_it_is(cut(model, 0, _prefix(model, MAX_NBYTES))).data_nbytes


def _prefix(model: Model, max_nbytes: int) -> int:
    """Layers, counted from the first, that fit into so many bytes; two at least, and one of each kind."""
    nbytes = plan_as_it_is(cut(model, 0, 1)).data_nbytes
    return min(model.hparams.n_layer, max(2, kinds_repeat_after(model), max_nbytes // max(1, nbytes)))


def _run(part: Model, x: I32Array | F32Array, folder: Path, threads: int, device: Device) -> list[F32Array]:
    path = folder / "agreement.gguf"
    try:
        write_as_it_is(path, part, threads=threads)
        with LayerRun(
            path, n_layer=part.hparams.n_layer, n_ctx=len(x), threads=threads, device=device,
            input_scale=input_scale(part),
        ) as run:  # fmt: skip
            return run(x)
    finally:
        with suppress(OSError):
            path.unlink()


def _difference(x: F32Array, wanted: F32Array) -> float:
    if not np.isfinite(wanted).all():
        return 0.0 if np.array_equal(x, wanted, equal_nan=True) else np.inf
    return float(np.abs(x - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
