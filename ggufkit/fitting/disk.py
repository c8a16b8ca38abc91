"""`Disk`: what a fitted run takes beside its output, and what of that is still to be taken.

    OUTPUT.partial                 the output itself, its bytes claimed when types are known
    OUTPUT.partial.kept            the notebook, unless it stays elsewhere
    OUTPUT.partial.kept/layers     streams and the layer in hand; first some layers together, to see whether they agree
    OUTPUT.partial.kept/gradients  what goes into every layer, of the tokens that gradients are taken of
    .OUTPUT.calibration.gguf       the quick file of a model that is run as a whole

Knows paths and numbers of bytes. Does not know what lies there.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ggufkit.encoding.destination import copy_path
from ggufkit.encoding.running import CALIBRATION_COPY, quick_type
from ggufkit.fitting.cost import EffortCost, token_weights_nbytes
from ggufkit.fitting.notebook import room_in
from ggufkit.fitting.sources.agreement import prefix_nbytes
from ggufkit.formats.model import Model
from ggufkit.formats.unfinished import check_space, kept_path, nearest_folder, partial_path, taken_nbytes
from ggufkit.recipes.build import make_plan


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes beside the output, moments that are kept left out.

    least    at once, in the step that takes most
    reading  at once while the text is read
    """

    least: int
    reading: int

    @classmethod
    def of(cls, model: Model, cost: EffortCost, *, n_weighed: int, by_layer: bool, quick: bool) -> Self:
        """n_weighed  tokens that gradients are taken of; by_layer  whether the model is run layer by layer; quick
        whether a quick file is made, and runs once the text was read where it was read by layer
        """
        together = prefix_nbytes(model) if by_layer else 0
        copy = make_plan(model, quick_type(model)).file_nbytes if quick else 0
        weights = token_weights_nbytes(model, n_weighed)
        reading = cost.reading_nbytes + copy + weights
        return cls(max(cost.disk_nbytes + weights, together, reading), reading)


class Disk:
    """The places of a run whose output has `file_nbytes`; notes  the notebook's folder."""

    def __init__(self, output: Path, notes: Path, file_nbytes: int, needs: Needs) -> None:
        self.notes, self.needs = notes, needs
        self._output, self._file_nbytes = output, file_nbytes
        self.layers, self.gradients = kept_path(output) / "layers", kept_path(output) / "gradients"

    def check(self) -> None:
        """Raise OutputError where there is less room than the run cannot do without."""
        what = f"{self._output.name}, with what lies beside it on the way,"
        check_space(self._output.parent, self._owed(self.needs.least), what)

    def at_most(self, kept_nbytes: int) -> int:
        """Bytes beside the output at once, with moments that are kept."""
        return max(self.needs.least, self.needs.reading + kept_nbytes)

    def owed(self) -> int:
        """Bytes of the notebook's disk that the output and what lies beside it are going to take, as of now, while the
        text is read: no moments are kept before."""
        disks = {nearest_folder(path).stat().st_dev for path in (self.notes, self._output.parent)}
        return self._owed(self.needs.reading) if len(disks) == 1 else 0

    def spare(self) -> int:
        """Bytes of the output's disk, as of now, that nothing of the run is going to take."""
        return max(0, shutil.disk_usage(self._output.parent).free - self._owed(self.needs.least))

    def room(self) -> int:
        """Bytes that moments may take there, with those that a run before this one left."""
        return room_in(self.notes, self.owed()) + taken_nbytes(*self.notes.glob("walk-*.npz"))

    def _owed(self, beside: int) -> int:
        copy = copy_path(self._output, CALIBRATION_COPY)
        there = (partial_path(self._output), partial_path(copy), copy, self.layers, self.gradients)
        taken = taken_nbytes(*there, self.notes / "weights.npz", *self.notes.glob("together-*.npz"))
        return max(0, self._file_nbytes + beside - taken)
