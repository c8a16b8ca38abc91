"""`LayerRun`: a few layers that are open: a chunk of tokens or of the stream goes in, their outputs come out.

Chunks are run one by one, in one sequence, so that rows come out in the order in which they went in. Knows one file of
layers. Does not know where chunks come from or what observers keep.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import EngineError, InputError
from ggufkit.fitting.corpus import GROUP_CHUNKS
from ggufkit.fitting.sources import Observer
from ggufkit.runtime.activations import Activations, ActivationTap
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.library import load
from ggufkit.runtime.loading import N_UBATCH, Device

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]


EXACT: dict[str, Any] = {"device": Device.CPU, "flash_attn": False, "use_extra_bufts": False}


class LayerRun:
    """The layers in the GGUF at `path`, of which `n_layer` outputs are kept.

    observe, wants  as of `ActivationTap`, with names as the file has them
    with_head       also compute what stands behind the last layer, for observers of it
    input_scale     what llama.cpp multiplies rows of the stream with on their way in, to be taken back
    exact           compute as a tape of the layer does, to the bit: on the processor, without faster kernels
    """

    def __init__(
        self,
        path: Path,
        *,
        n_layer: int = 1,
        n_ctx: int,
        threads: int | None,
        device: Device,
        observe: Callable[[Activations], None] = lambda _: None,
        wants: Callable[[str], bool] = lambda _: False,
        with_head: bool = False,
        input_scale: float = 1.0,
        exact: bool = False,
    ) -> None:
        self._outputs: list[list[F32Array]] = [[] for _ in range(n_layer)]
        self._input_scale = np.float32(input_scale)
        nodes = {f"l_out-{i}": _keeper(one, with_head or i < n_layer - 1) for i, one in enumerate(self._outputs)}
        self._tap = ActivationTap(load(), observe, wants, nodes)
        self._engine = Engine.open(
            path, n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=min(n_ctx, N_UBATCH), n_outputs=n_ctx,
            threads=threads, eval_callback=self._tap.callback, **(EXACT if exact else {"device": device}),
        )  # fmt: skip
        self.notices = self._engine.notices

    def __call__(self, x: I32Array | F32Array) -> list[F32Array]:
        """What each layer gives, (n, n_embd), for ids (n,) of the file's vocabulary or rows (n, n_embd)."""
        for one in self._outputs:
            one.clear()
        if x.ndim == 2 and self._input_scale != 1:
            x = (x / self._input_scale).astype(np.float32)
        self._tap.decode(self._engine, x)
        if not all(self._outputs):
            raise EngineError("its layers' outputs are not called l_out")
        return [np.concatenate(one) for one in self._outputs]

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _keeper(kept: list[F32Array], goes_on: bool) -> Callable[[F32Array], bool]:
    """Appends copies of a layer's output to `kept`; says whether what stands behind it is computed."""

    def keep(values: F32Array) -> bool:
        kept.append(values.reshape(-1, values.shape[-1]).copy())
        return goes_on

    return keep


def outputs(
    run: LayerRun, inputs: Iterable[I32Array | F32Array], layer: int, model: str, observer: Observer | None = None
) -> Iterator[F32Array]:
    """What one layer gives for each chunk of a text, (n, n_embd), in order; an observer is told of the groups.

    Raises InputError, which names the layer and the model, where it overflows.
    """
    for index, x in enumerate(inputs):
        if observer is not None and index % GROUP_CHUNKS == 0:
            observer.begin_group(index // GROUP_CHUNKS)
        (y,) = run(x)
        require_finite(y, layer, model)
        yield y


def require_finite(x: F32Array, layer: int, model: str) -> None:
    if not np.isfinite(x).all():
        raise InputError(
            f"{model}: layer {layer} gives NaN or infinite values on the calibration text. The model overflows as it "
            "is stored; calibrate on a BF16 or F32 checkpoint of it."
        )
