"""`FitSettings`: what a fitted run is asked to make, and what follows from that alone."""

from dataclasses import dataclass
from pathlib import Path

from ggufkit.encoding.settings import DEFAULT_MAX_MEMORY, QuantizeSettings
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.sources.layer_by_layer import Stream
from ggufkit.recipes.search import Target
from ggufkit.runtime import machine
from ggufkit.runtime.loading import Device

N_TOKENS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What to make and how hard to try.

    quantize     source, output, recipe and the rest; its imatrix is not used. The pages of the model that
                 is run are mapped and do not count for its max_memory; less memory means more walks through the text
    text         calibration texts; empty takes the shipped one
    n_tokens     at most so many of them, spread evenly over the text; None reads everything
    target       choose types for a size or a divergence instead of taking quantize.recipe
    n_probe      chunks that a divergence is tried on, where that is the target
    by_layer     run the source layer by layer where its family allows it, whatever its size
    stream       what a layer is shown: what the source's layers before it give, or those of the output
    evidence     a folder where what calibration finds out stays, for other files of the same source and text
    """

    quantize: QuantizeSettings
    effort: Effort = Effort.BALANCED
    text: tuple[Path, ...] = ()
    n_tokens: int | None = N_TOKENS
    target: Target | None = None
    n_probe: int = 8
    device: Device = Device.AUTO
    by_layer: bool = True
    stream: Stream = Stream.ORIGINAL
    evidence: Path | None = None

    @property
    def gathers_for(self) -> Effort:
        """The effort that evidence is gathered for: types are chosen with second moments, whatever the effort."""
        return Effort.BALANCED if self.target and self.effort is Effort.FAST else self.effort

    @property
    def is_fitted(self) -> bool:
        """Whether rows are encoded with error feedback, not with importance alone."""
        return self.effort is not Effort.FAST

    @property
    def max_memory(self) -> int:
        """Resident bytes that may be used."""
        return self.quantize.max_memory or max(DEFAULT_MAX_MEMORY, machine.memory().total // 2)

    @property
    def n_tried(self) -> int | None:
        """Chunks that a choice of types is tried on, None where none is made."""
        if self.target is None:
            return None
        return 0 if self.target.kld is None else self.n_probe
