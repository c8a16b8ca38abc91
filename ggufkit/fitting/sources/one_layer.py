"""`OneLayer`: a layer cut from a model, as a value that can be run in any process that sees the model's files."""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggufkit.fitting.sources import Observer
from ggufkit.fitting.sources.cut import whole_name
from ggufkit.fitting.sources.layer_run import LayerRun
from ggufkit.fitting.sources.scratch import write_as_it_is
from ggufkit.fitting.sources.whole_model import naming
from ggufkit.formats.model import Model
from ggufkit.runtime.activations import Activations
from ggufkit.runtime.loading import Device


@dataclass(frozen=True, slots=True)
class OneLayer:
    """The layer and how it is run.

    part         the layer as a model of its own; see `cut`
    number       of the layer in the whole model; is_last  whether the head follows it
    input_scale  see `LayerRun`
    model_name   for messages
    """

    part: Model
    number: int
    is_last: bool
    n_ctx: int
    device: Device
    input_scale: float
    model_name: str

    @contextmanager
    def opened(
        self, path: Path, observer: Observer | None, *, threads: int | None, write_threads: int
    ) -> Iterator[LayerRun]:
        """The layer, open, with its observer, which is told the names of the whole model.

        path  for a file that is there for a moment
        """
        named = naming(observer, self.model_name) if observer is not None else None
        name_of = functools.partial(whole_name, layer=self.number)

        def observe(seen: Activations) -> None:
            if named is not None:
                named(dataclasses.replace(seen, name=name_of(seen.name)))

        def wants(name: str) -> bool:
            return observer is not None and observer.wants(name_of(name))

        write_as_it_is(path, self.part, threads=write_threads)
        with LayerRun(
            path, n_ctx=self.n_ctx, threads=threads, device=self.device, observe=observe, wants=wants,
            input_scale=self.input_scale, with_head=observer is not None and self.is_last,
        ) as run:  # fmt: skip
            path.unlink()  # llama.cpp has mapped it; nothing is left by a run that is killed from here on
            yield run
