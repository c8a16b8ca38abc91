"""`calibrate`: a model and texts go in, an importance file of llama.cpp comes out.

A GGUF is run as a whole; a Hugging Face folder layer by layer, in its own types, or, where its family cannot be cut, as
a quick quantized file. Knows the order of the steps: read what is to be added to, run, merge, report, write. Does not
print.
Each weight tensor gets, per expert, the sum of squares of every input column and the tokens that were routed to it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ggufkit.architectures.source import open_source
from ggufkit.encoding.destination import layers_folder
from ggufkit.encoding.running import running_model
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import CutError, OutputError, UsageError
from ggufkit.fitting.corpus import N_CTX, Corpus, texts
from ggufkit.fitting.coverage import Coverage
from ggufkit.fitting.duration import CALIBRATION, QUICK, sums_seconds
from ggufkit.fitting.layer_sums import gather_sums
from ggufkit.fitting.merging import as_imatrix, coverage_in, merge
from ggufkit.fitting.rates import assumed
from ggufkit.fitting.sources.layer_by_layer import LayerByLayer
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.sums import SumsObserver, wants_block_weights
from ggufkit.formats.imatrix_file import read_imatrix, write_imatrix
from ggufkit.formats.model import Model
from ggufkit.formats.outputs import beside, require_place
from ggufkit.formats.text import CALIBRATION_TEXT
from ggufkit.progress import OnProgress, Progress, Steps, ignore
from ggufkit.runtime import boundary, machine
from ggufkit.runtime.loading import Device
from quant.importance import InputSums

KEEP_EVERY_S = 60.0  # what is gathered is written so often


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateSettings:
    """What to run on what.

    model           the GGUF or the Hugging Face folder whose activations are looked at
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
    """What was gathered.

    interrupted  Ctrl-C ended it early; the file holds what was seen until then
    notes        what a person should know of how the model was run
    """

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
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        return self.n_chunk * self.n_ctx


def calibrate(settings: CalibrateSettings, on_progress: OnProgress = ignore) -> CalibrateReport:
    """Gather importance and write it.

    Ctrl-C writes what was gathered and returns a report that says so; before the first chunk it passes through, and
    layer by layer it does so always: finished layers then stay beside the output, where the next run finds them.
    Raises InputError for a short text, ImatrixError for files to add that are of another model, OutputError,
    EngineError, NonFiniteError for a model whose activations overflow.
    """
    started = time.perf_counter()
    check_settings(settings)
    text, names = texts(settings.text)
    earlier = [read_imatrix(path) for path in settings.add_to]
    seen = _by_layer(settings, text, on_progress) if settings.model.is_dir() else _walk(settings, text, on_progress)
    boundary.leave("")
    merged = merge([as_imatrix(seen.sums, names, seen.n_chunk, settings.n_ctx), *earlier])
    write_imatrix(settings.output, merged)
    gathered_path(settings.output).unlink(missing_ok=True)
    if settings.model.is_dir():
        shutil.rmtree(layers_folder(settings.output), ignore_errors=True)
    return CalibrateReport(
        output=settings.output,
        model=settings.model.name,
        texts=names,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        n_chunk=seen.n_chunk,
        n_ctx=settings.n_ctx,
        n_entries=len(merged.entries),
        coverage=coverage_in(merged),
        interrupted=seen.interrupted,
        seconds=time.perf_counter() - started,
        notes=seen.notes,
    )


def merge_files(paths: tuple[Path, ...], output: Path, *, force: bool = False) -> Coverage:
    """Merge importance files into `output`; returns the coverage of the sum."""
    require_place(output, read=paths, force=force)
    merged = merge([read_imatrix(path) for path in paths])
    write_imatrix(output, merged)
    return coverage_in(merged)


class _Seen(NamedTuple):
    """Sums by tensor name, of so many chunks; whether Ctrl-C ended it; what a person should know."""

    sums: Mapping[str, InputSums]
    n_chunk: int
    interrupted: bool = False
    notes: tuple[str, ...] = ()


def _by_layer(settings: CalibrateSettings, text: str, on_progress: OnProgress) -> _Seen:
    """Run the source layer by layer; where it cannot be cut, a quick quantized file of it."""
    with open_source(settings.model) as model:
        source = LayerByLayer(model, _corpus(settings, text), layers_folder(settings.output))
        try:
            source.start()
        except CutError as error:
            return _on_quick_file(settings, model, text, on_progress, f"{error}. It was run as a quick quantized file.")
        try:
            with closing(source):
                sums = gather_sums(source, _wants(settings), on_progress)
        except KeyboardInterrupt as error:
            error.add_note("interrupted; finished layers are kept beside the output. Go on with the same command.")
            raise
    return _Seen(sums, source.n_chunk)


def _on_quick_file(settings: CalibrateSettings, model: Model, text: str, on_progress: OnProgress, note: str) -> _Seen:
    made = QuantizeSettings(source=settings.model, output=settings.output)
    rates = assumed(settings.threads or machine.choose_threads().n)
    steps = Steps(sums_seconds(model, _corpus(settings, text), rates), on_progress)
    with running_model(made, model, functools.partial(steps.step, QUICK)) as running:
        seen = _walk(dataclasses.replace(settings, model=running), text, steps.step(CALIBRATION))
    return seen._replace(notes=(note,))


def _walk(settings: CalibrateSettings, text: str, on_progress: OnProgress) -> _Seen:
    """Run the GGUF; Ctrl-C ends it early."""
    observer = SumsObserver(_wants(settings))
    done, kept_at = [0], [time.monotonic()]

    def on_chunk(seen: int, total: int) -> None:
        done[0] = seen
        if time.monotonic() - kept_at[0] >= KEEP_EVERY_S:
            _keep(settings, observer.sums, seen)
            kept_at[0] = time.monotonic()
        on_progress(Progress(seen, total, "chunks"))

    try:
        WholeModel(_corpus(settings, text)).observe(observer, on_chunk)
    except KeyboardInterrupt:
        if not done[0]:
            raise
        return _Seen(observer.sums, done[0], interrupted=True)
    return _Seen(observer.sums, done[0])


def gathered_path(output: Path) -> Path:
    """What a walk has gathered so far, an importance file like any other, until the output is there."""
    return beside(output, ".gathered", prefix=".")


def _keep(settings: CalibrateSettings, sums: Mapping[str, InputSums], n_chunk: int) -> None:
    """Write what was gathered, for a process that is killed. A full disk is not a reason to stop."""
    kept, n_tokens = gathered_path(settings.output), settings.skip_tokens + n_chunk * settings.n_ctx
    names = tuple(path.name for path in settings.text) or (CALIBRATION_TEXT,)
    with contextlib.suppress(OutputError):
        write_imatrix(kept, as_imatrix(sums, names, n_chunk, settings.n_ctx))
        boundary.leave(f"{n_chunk} chunks are kept. Go on with: --add-to '{kept}' --skip-tokens {n_tokens}")


def _wants(settings: CalibrateSettings) -> Callable[[str], bool]:
    return lambda name: wants_block_weights(name) or (settings.process_output and name == "output.weight")


def _corpus(settings: CalibrateSettings, text: str) -> Corpus:
    return Corpus(
        settings.model, text, settings.n_tokens, settings.n_ctx, settings.threads, settings.device,
        skip_tokens=settings.skip_tokens, spread=False,
    )  # fmt: skip


def check_settings(settings: CalibrateSettings) -> None:
    """Raise OutputError or UsageError for what cannot work, before anything is run."""
    require_place(settings.output, read=[settings.model, *settings.text, *settings.add_to], force=settings.force)
    if settings.n_tokens is not None and settings.n_tokens < settings.n_ctx:
        raise UsageError(f"--tokens {settings.n_tokens} is less than one chunk of {settings.n_ctx}")
