"""`calibrate`: a GGUF and texts go in, an importance file of llama.cpp comes out.

Knows the order of the steps: read what is to be added to, walk the text, merge, report, write. Does not print.
Each weight tensor gets, per expert, the sum of squares of every input column and the tokens that were routed to it.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufkit.errors import ImatrixError, OutputError, UsageError
from ggufkit.fitting.corpus import N_CTX, Corpus
from ggufkit.fitting.coverage import Coverage, coverage_of
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.sums import SumsObserver, wants_block_weights
from ggufkit.formats.imatrix import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
from ggufkit.formats.text import CALIBRATION_TEXT, read_text, shipped_text
from ggufkit.runtime.engine import Device
from quant.importance import InputSums


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateSettings:
    """What to run on what.

    model           the GGUF whose activations are looked at
    output          the importance file to write, GGUF format
    text            UTF-8 files, read one after the other as one text; empty takes the shipped text
    n_tokens        at most so many new tokens; None reads the whole text
    add_to          importance files whose sums and counts are added
    skip_tokens     leave out the text's beginning, which an earlier run has read
    process_output  also look at output.weight, as llama-imatrix --process-output does
    force           replace an existing output
    """

    model: Path
    output: Path
    text: tuple[Path, ...] = ()
    n_tokens: int | None = None
    add_to: tuple[Path, ...] = ()
    skip_tokens: int = 0
    n_ctx: int = N_CTX
    process_output: bool = False
    force: bool = False
    threads: int | None = None
    device: Device = Device.AUTO


@dataclass(frozen=True, slots=True)
class CalibrateReport:
    """What was gathered. `interrupted`: Ctrl-C ended it early; the file holds what was seen until then."""

    output: Path
    model: str
    texts: tuple[str, ...]
    text_sha256: str
    n_chunk: int
    n_ctx: int
    n_entries: int
    coverage: Coverage
    interrupted: bool
    seconds: float

    @property
    def n_tokens(self) -> int:
        return self.n_chunk * self.n_ctx


def calibrate(
    settings: CalibrateSettings, on_progress: Callable[[float, float, str], None] = lambda *_: None
) -> CalibrateReport:
    """Gather importance and write it.

    Ctrl-C writes what was gathered and returns a report that says so; before the first chunk it passes through.
    Raises InputError for a short text, ImatrixError for files to add that are of another model, OutputError,
    EngineError, NonFiniteError for a model whose activations overflow.
    """
    started = time.perf_counter()
    check_settings(settings)
    text, names = texts(settings.text)
    earlier = [read_imatrix(path) for path in settings.add_to]
    observer = SumsObserver(
        lambda name: wants_block_weights(name) or (settings.process_output and name == "output.weight")
    )
    n_chunk, interrupted = _walk(settings, text, observer, on_progress)
    merged = merge([_as_imatrix(observer.sums, names, n_chunk, settings.n_ctx), *earlier])
    write_imatrix(settings.output, merged)
    return CalibrateReport(
        output=settings.output,
        model=settings.model.name,
        texts=names,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        n_chunk=n_chunk,
        n_ctx=settings.n_ctx,
        n_entries=len(merged.entries),
        coverage=coverage_in(merged),
        interrupted=interrupted,
        seconds=time.perf_counter() - started,
    )


def merge(files: list[Imatrix]) -> Imatrix:
    """Sums and counts added, texts joined. Raises ImatrixError where two are of different models."""
    if not files:
        raise UsageError("nothing to merge: name at least one importance file")
    total: dict[str, InputSums] = {}
    for file in files:
        for name, evidence in sums_of(file).items():
            old = total.get(name)
            if old is not None and old.sums.shape != evidence.sums.shape:
                raise ImatrixError(
                    f"importance of {name} has shape {evidence.sums.shape} in one file, {old.sums.shape} in another. "
                    "Merge files of the same model only."
                )
            total[name] = evidence if old is None else old + evidence
    names = tuple(dict.fromkeys(name for file in files for name in file.datasets))
    n_tokens = sum(file.chunk_count * file.chunk_size for file in files)
    size = max(file.chunk_size for file in files)
    return _as_imatrix(total, names, n_tokens // size if size else 0, size)


def merge_files(paths: tuple[Path, ...], output: Path, *, force: bool = False) -> Coverage:
    """Merge importance files into `output`; returns the coverage of the sum."""
    if output.exists() and not force:
        raise OutputError(f"{output} exists. Replace it with --force, or choose another name with -o.")
    merged = merge([read_imatrix(path) for path in paths])
    write_imatrix(output, merged)
    return coverage_in(merged)


def sums_of(imatrix: Imatrix) -> dict[str, InputSums]:
    """Evidence by tensor name."""
    return {
        name: InputSums(entry.sums.astype(np.float64), np.rint(entry.counts).astype(np.int64))
        for name, entry in imatrix.entries.items()
    }


def coverage_in(imatrix: Imatrix) -> Coverage:
    """Coverage that an importance file tells of."""
    return coverage_of({name: evidence.counts for name, evidence in sums_of(imatrix).items()})


def _as_imatrix(sums: Mapping[str, InputSums], texts: tuple[str, ...], n_chunk: int, n_ctx: int) -> Imatrix:
    entries = {
        name: ImatrixEntry(evidence.sums.astype(np.float32), evidence.counts.astype(np.float32))
        for name, evidence in sums.items()
    }
    return Imatrix(datasets=texts, chunk_count=n_chunk, chunk_size=n_ctx, entries=entries)


def _walk(
    settings: CalibrateSettings, text: str, observer: SumsObserver, on_progress: Callable[[float, float, str], None]
) -> tuple[int, bool]:
    """Chunks seen, and whether Ctrl-C ended it."""
    done = [0]

    def on_chunk(seen: int, total: int) -> None:
        done[0] = seen
        on_progress(seen, total, "chunks")

    corpus = Corpus(
        settings.model, text, settings.n_tokens, settings.n_ctx, settings.threads, settings.device,
        skip_tokens=settings.skip_tokens, spread=False,
    )  # fmt: skip
    try:
        WholeModel(corpus).observe(observer, on_chunk)
    except KeyboardInterrupt:
        if not done[0]:
            raise
        return done[0], True
    return done[0], False


def texts(paths: tuple[Path, ...]) -> tuple[str, tuple[str, ...]]:
    """The whole text and the names of its files; names without folders, so that no local path is recorded."""
    if not paths:
        return shipped_text(CALIBRATION_TEXT), (CALIBRATION_TEXT,)
    return "".join(read_text(path) for path in paths), tuple(path.name for path in paths)


def check_settings(settings: CalibrateSettings) -> None:
    """Raise OutputError or UsageError for what cannot work, before anything is run."""
    output = settings.output
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent} is not a folder. Create it, or choose another place with -o.")
    if output.exists() and not settings.force:
        raise OutputError(f"{output} exists. Replace it with --force, or choose another name with -o.")
    if settings.n_tokens is not None and settings.n_tokens < settings.n_ctx:
        raise UsageError(f"--tokens {settings.n_tokens} is less than one chunk of {settings.n_ctx}")
