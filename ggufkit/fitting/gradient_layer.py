"""`GradientLayer`: one layer's part in taking gradients, as a value that can be worked on in any process that sees the
model's files.

Chunk by chunk, in the order in which they are given: on the way there, what the layer makes of what goes in; on the way
back, from the gradient of what it gives to that of what went in, and what its tokens count for.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.fitting.sources.cut import whole_name
from ggufkit.fitting.sources.layer_run import LayerRun, outputs
from ggufkit.fitting.sources.layer_tape import LayerTape
from ggufkit.fitting.sources.scratch import write_as_it_is
from ggufkit.fitting.token_weights import GradientSums, Stiffness, drawn_gradient, draws, ended_notes
from ggufkit.formats.model import Model
from ggufkit.runtime.loading import Device

F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]
Inputs = Iterable[I32Array | F32Array]
Wants = Callable[[str], bool]
Give = Callable[[F32Array | None], None]


@dataclass(frozen=True, slots=True)
class GradientLayer:
    """The layer, or the head behind the last one.

    part         it as a model of its own; see `cut`
    number       of the layer in the whole model
    picked       numbers of the chunks in the corpus, which decide what tokens are drawn at the head
    n_ctx        tokens of each chunk
    n_run        of them that are run at a time: all, or fewer at the head, whose logits are by far the largest values
    input_scale  see `LayerRun`
    wants        says by a tensor's name whether its products are looked at
    groups       rows of a group by tensor, see `GradientSums`
    """

    part: Model
    number: int
    is_head: bool
    picked: NDArray[np.int64]
    n_ctx: int
    n_run: int
    input_scale: float
    wants: Wants
    groups: Mapping[str, int]

    def ahead(self, path: Path, inputs: Inputs, threads: int) -> Generator[F32Array, None, None]:
        """What the layer gives. path  for its file, which is there meanwhile"""
        with (
            self._written(path, threads),
            LayerRun(
                path, n_ctx=self.n_ctx, threads=threads, device=Device.CPU, input_scale=self.input_scale, exact=True
            ) as run,
        ):
            yield from outputs(run, inputs, self.number, "the model")

    def back(
        self, path: Path, inputs: Inputs, gradients: Iterable[F32Array], threads: int, give: Give
    ) -> tuple[dict[str, Stiffness], tuple[str, ...]]:
        """What the layer's tokens count for, by tensor, and notes.

        gradients  of what the layer gives; none at the head, where they begin
        give       is called with those of what went in, None of tokens
        """
        pool = ThreadPoolExecutor(threads)
        sums = GradientSums(self.wants, self.groups, pool.map)

        def on_output(name: str, gradient: F32Array, experts: I32Array | None) -> None:
            if not (self.is_head and name.startswith("blk.")):
                sums(whole_name(name, self.number), gradient, experts)

        with (
            pool,
            self._written(path, threads),
            LayerTape(
                path, n_ctx=self.n_run, threads=threads, on_output=on_output, takes_rows=self.number > 0,
                with_head=self.is_head, input_scale=self.input_scale,
            ) as tape,
        ):  # fmt: skip
            for before in self._begun(tape, inputs) if self.is_head else _through(tape, inputs, gradients):
                give(before)
            return sums.stiffness(self.picked, self.n_ctx), ended_notes(tape.ended_at)

    def _begun(self, tape: LayerTape, inputs: Inputs) -> Iterator[F32Array | None]:
        """Gradients of what goes into the head, chunk by chunk; there each row stands for itself."""
        for x, number in zip(inputs, self.picked, strict=True):
            out, at = np.empty_like(x, dtype=np.float32), draws(int(number), len(x))
            for first in range(0, len(x), self.n_run):
                rows = slice(first, first + self.n_run)
                tape.forward(x[rows])
                out[rows] = tape.back(drawn_gradient(tape.logits(len(x[rows])), at[rows]))
            yield out

    @contextmanager
    def _written(self, path: Path, threads: int) -> Iterator[None]:
        """The layer as a file, removed when it is done with. A head that is not finite weighs no tokens; whether it may
        be so is for the encoding to say."""
        try:
            write_as_it_is(path, self.part, threads=threads, allow_nonfinite=self.is_head)
            yield
        finally:
            path.unlink(missing_ok=True)


def _through(tape: LayerTape, inputs: Inputs, gradients: Iterable[F32Array]) -> Iterator[F32Array | None]:
    """Gradients of what goes into the layer, chunk by chunk; none of tokens."""
    for x, gradient in zip(inputs, gradients, strict=True):
        tape.forward(x)
        yield tape.back(gradient)
