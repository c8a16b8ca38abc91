"""`perplexity`: how well a GGUF predicts a text, with an interval that takes chunks, not tokens, as independent.

Knows the order of the steps. Does not print. The figure is llama-perplexity's; the interval is wider and honest.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.formats.text import EVALUATION_TEXT, read_text, shipped_text
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.runtime import scoring
from ggufkit.runtime.loading import Device
from quant.stats import known


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexitySettings:
    """What to measure on what.

    text    a UTF-8 file; None takes the shipped prose
    n_ctx   tokens of a chunk; the second half is scored
    chunks  at most so many; None takes the whole text
    """

    file: Path
    text: Path | None = None
    n_ctx: int = scoring.N_CTX
    chunks: int | None = None
    threads: int | None = None
    device: Device = Device.AUTO


@dataclass(frozen=True, slots=True)
class PerplexityReport:
    """What was measured.

    ppl_error        one standard error, tokens taken as independent, as llama-perplexity prints it
    ppl_error_chunk  one standard error, chunks taken as independent; None for one chunk, which has no spread
    text_sha256      of the text's bytes
    """

    file: str
    text: str
    text_sha256: str
    ppl: float
    ppl_error: float
    ppl_error_chunk: float | None
    n_ctx: int
    n_chunk: int
    n_token: int
    seconds: float
    tokens_per_second: float
    notices: tuple[str, ...]


def perplexity(
    settings: PerplexitySettings,
    on_progress: OnProgress = ignore,
    on_notice: Callable[[str], None] = lambda _: None,
) -> PerplexityReport:
    """Measure it. Raises GgufError, InputError (text too short or not UTF-8), EngineError.

    on_notice  called before the work with what a person should know of the engine
    """
    text = read_text(settings.text) if settings.text else shipped_text(EVALUATION_TEXT)
    with scoring.open_for_scoring(
        settings.file, n_ctx=settings.n_ctx, threads=settings.threads, device=settings.device
    ) as engine:
        for notice in engine.notices:
            on_notice(notice)
        tokens = engine.tokenize(text)
        total = min(len(tokens) // settings.n_ctx, settings.chunks or len(tokens))
        result = scoring.perplexity(
            engine, tokens, n_ctx=settings.n_ctx, n_chunk=settings.chunks,
            on_chunk=lambda fraction: on_progress(Progress(fraction * total, total, "chunks")),
        )  # fmt: skip
        notices = engine.notices
    return PerplexityReport(
        file=settings.file.name,
        text=settings.text.name if settings.text else EVALUATION_TEXT,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        ppl=result.ppl,
        ppl_error=result.ppl_error,
        ppl_error_chunk=known(result.ppl * standard_error_of_means(result.nll)),
        n_ctx=result.n_ctx,
        n_chunk=result.n_chunk,
        n_token=result.n_token,
        seconds=result.seconds,
        tokens_per_second=result.tokens_per_second,
        notices=notices,
    )


def standard_error_of_means(nll: NDArray[np.float64]) -> float:
    """Standard error of the mean of `nll` (n_chunk, n_scored) from the spread of its chunks; NaN for one chunk."""
    means = nll.mean(axis=1)
    return float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
