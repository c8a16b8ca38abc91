"""Where the inputs of a model's matrices come from, and who looks at them.

A `MomentSource` lets a model read a corpus and shows an `Observer` what the tensors that it wants are multiplied with.
What is kept of that is the observer's business; how the model is run is the source's: all of it at once for every
reading (`whole_model`), or otherwise, as long as a tensor sees the tokens of the corpus in their order.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.walks import Shape
from ggufkit.runtime.activations import Activations

OnChunk = Callable[[int, int], None]


class Observer(Protocol):
    """Looks at activations. Called from one thread; what it raises ends the reading and is raised there again."""

    def wants(self, name: str) -> bool:
        """Whether the inputs of the tensor of that name are to be shown. Never changes its mind."""
        ...

    def begin_group(self, index: int) -> None:
        """The chunks of that group follow, counted from 0: some groups are held out. Once a pass over the corpus."""
        ...

    def __call__(self, seen: Activations) -> None: ...


class MomentSource(Protocol):
    """Runs a model over a corpus.

    corpus  what is read
    notes   lines that a person should see: a fallback that was taken, and why
    """

    @property
    def corpus(self) -> Corpus: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def starts_anywhere(self) -> bool:
        """Whether `observe` can begin with a later group."""
        ...

    @property
    def identity(self) -> str:
        """All that decides what observers are shown: text, amount, chunks, the type of the file that runs."""
        ...

    def walks(self, shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
        """Names whose moments are best gathered together, in the order in which they are best asked for.

        shapes      (n_expert, n_per_row) of every tensor that will be asked for, in the order of the file
        max_nbytes  that moments may take
        """
        ...

    def observe(self, observer: Observer, on_chunk: OnChunk = ..., *, first_group: int = 0) -> int:
        """One reading. Returns how many chunks the corpus has; `on_chunk` is called with (done, total).

        first_group  the groups before have been seen by an earlier run; 0 unless `starts_anywhere`

        Raises InputError for a text that is too short, and for activations that are not finite, with the tensor's
        name; EngineError where the model does not run. KeyboardInterrupt passes through; what observers gathered is
        theirs.
        """
        ...
