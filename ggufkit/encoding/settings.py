"""`QuantizeSettings`: what to make and how, as a value that every step of the work can read."""

from dataclasses import dataclass
from pathlib import Path

import quant
from ggufkit.architectures.source import open_source
from ggufkit.formats.model import Model
from ggufkit.recipes.recipe import Recipe

DEFAULT_MAX_MEMORY = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeSettings:
    """What to make and how.

    source       a Hugging Face folder, or an F32, F16, BF16 or Q8_0 GGUF
    output       the GGUF to write; never there half-written
    recipe       a mixture's name (Q4_K_M, F16, …) or a Recipe
    imatrix      importance file of llama.cpp, either format
    threads      encoders at work; 0 takes every processor that the process may use
    max_memory   cap on resident bytes; None takes 2 GiB, or half of the machine's where experts are fitted
    mtp          keep the block of a checkpoint that guesses further tokens, where it has one
    lora         folders of PEFT adapters to add to a checkpoint's weights, and how strongly
    cluster      address of a Dask scheduler whose workers encode; None encodes here
    workers      so many processes of this machine encode instead, with `threads` each, or one; 0: none
    provenance   whether the file says what it was made from; False gives llama_model_quantize's exact file
    """

    source: Path
    output: Path
    recipe: Recipe | str = "Q4_K_M"
    imatrix: Path | None = None
    encoder: quant.Encoder = quant.Encoder.GGUFKIT
    threads: int = 0
    max_memory: int | None = None
    resume: bool = False
    restart: bool = False
    force: bool = False
    provenance: bool = True
    allow_nonfinite: bool = False
    allow_requantize: bool = False
    mtp: bool = True
    lora: tuple[tuple[Path, float], ...] = ()
    cluster: str | None = None
    workers: int = 0

    def open(self, *, outline: bool = False) -> Model:
        """The source as these settings want it; see `open_source`, and for what it raises."""
        return open_source(
            self.source, allow_requantize=self.allow_requantize, mtp=self.mtp, lora=self.lora, outline=outline
        )
