"""`check`: perplexity of what went in and of what came out, on the same tokens.

A Hugging Face folder is first converted, unquantized, to a temporary file beside the output, because llama.cpp runs
GGUF only; the file is removed again. Does not print.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggufkit.encoding.job import Job
from ggufkit.encoding.running import running_copy
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.model import Model
from ggufkit.formats.text import EVALUATION_TEXT, read_text, shipped_text
from ggufkit.formats.unfinished import check_space
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.runtime import scoring
from ggufkit.workflows.inspect import inspect
from ggufkit.workflows.perplexity import standard_error_of_means
from quant.stats import known

MAX_CHUNKS = 60  # of 512 tokens: enough to tell a broken file, a few seconds on a small model


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """Perplexity before and after.

    type_before     of the file that ran: the source itself, or its conversion
    ln_ratio_error  one standard error of ln(after / before), chunks taken as independent; None for one chunk
    """

    text: str
    n_ctx: int
    n_chunk: int
    type_before: str
    ppl_before: float
    ppl_after: float
    ln_ratio: float
    ln_ratio_error: float | None


def require(job: Job, text: Path | None) -> None:
    """Raise, before any work, what would keep `check` from ending: a text that cannot be read, or too little disk."""
    if text:
        read_text(text)
    output = job.settings.output
    if job.settings.source.is_dir() and output.parent.is_dir():
        what = f"{output.name} and, for the check, an unquantized copy of the source"
        check_space(output.parent, job.plan.file_nbytes + job.model.source_nbytes, what)


def check(settings: QuantizeSettings, model: Model, text: Path | None, on_progress: OnProgress = ignore) -> BeforeAfter:
    """Measure `settings.output` against its source, open as `model`, on `text` (None: the shipped prose)."""
    content = read_text(text) if text else shipped_text(EVALUATION_TEXT)
    with runnable(settings, model) as (before_path, type_before):
        before = _score(before_path, content, settings, _part(on_progress, 0, type_before))
        after = _score(settings.output, content, settings, _part(on_progress, 50, settings.output.name))
    difference = after.nll - before.nll
    return BeforeAfter(
        text=text.name if text else EVALUATION_TEXT,
        n_ctx=after.n_ctx,
        n_chunk=after.n_chunk,
        type_before=type_before,
        ppl_before=before.ppl,
        ppl_after=after.ppl,
        ln_ratio=math.log(after.ppl / before.ppl),
        ln_ratio_error=known(standard_error_of_means(difference)),
    )


@contextmanager
def runnable(settings: QuantizeSettings, model: Model) -> Iterator[tuple[Path, str]]:
    """A GGUF of the source that llama.cpp can run, and the name of its type."""
    if settings.source.is_file():
        yield settings.source, inspect(settings.source).type or "GGUF"
        return
    widest = max((t.dtype for t in model.tensors if not t.keep_f32), key=_bits)
    with running_copy(settings, model, widest, "check") as path:
        yield path, widest


def _part(on_progress: OnProgress, first: int, what: str) -> Callable[[float], None]:
    """One of two halves of the work; called with the fraction of it that is done."""
    return lambda fraction: on_progress(Progress(first + fraction * 50, 100, "%", what))


def _bits(dtype: str) -> int:
    return {"F32": 3, "BF16": 2, "F16": 1}.get(dtype, 0)


def _score(path: Path, text: str, settings: QuantizeSettings, on_chunk: Callable[[float], None]) -> scoring.Perplexity:
    with scoring.open_for_scoring(path, threads=settings.threads or None) as engine:
        return scoring.perplexity(engine, engine.tokenize(text), n_chunk=MAX_CHUNKS, on_chunk=on_chunk)
