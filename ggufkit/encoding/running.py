"""A GGUF that llama.cpp can run: the source itself, or a copy of it beside the output for as long as it is needed."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ggufkit.encoding.destination import copy_path, forget_copy
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.job import Job, prepare, write
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.model import Model, ModelTensor
from ggufkit.formats.source_file import SourceFile
from ggufkit.formats.tensor import TensorRef
from ggufkit.formats.unfinished import partial_path
from ggufkit.progress import OnProgress, ignore
from ggufkit.recipes.quantizable import layer_of
from ggufkit.runtime import machine

CALIBRATION_COPY = "calibration"  # see `copy_path`


def running_path(settings: QuantizeSettings, purpose: str) -> Path:
    """Where that file is, or will be; see `copy_path` for purposes."""
    return settings.source if settings.source.is_file() else copy_path(settings.output, purpose)


@contextmanager
def running_copy(
    settings: QuantizeSettings, model: Model, type_name: str, purpose: str, on_progress: OnProgress = ignore
) -> Iterator[Path]:
    """The file at `running_path`. A folder's is made first, of that type, and deleted afterwards, however that ends."""
    path = running_path(settings, purpose)
    if path == settings.source:
        yield path
        return
    copy = dataclasses.replace(
        settings, output=path, recipe=type_name, imatrix=None, force=True, resume=False, restart=True,
        cluster=None, workers=0,
    )  # fmt: skip
    encoder = PlainEncoder()
    try:
        write(prepare(copy, model, encoder), encoder, on_progress)
        yield path
    finally:
        forget_copy(settings.output, purpose)


def running_model(
    settings: QuantizeSettings, model: Model, step: Callable[[], OnProgress]
) -> AbstractContextManager[Path]:
    """The model as a GGUF that runs: the source, or a quick quantized file for a while.

    step  called before that is made; returns the callback for its progress
    """
    on_progress = ignore if settings.source.is_file() else step()
    return running_copy(settings, model, quick_type(model), CALIBRATION_COPY, on_progress)


def quick_type(model: Model) -> str:
    """The finest type whose file leaves a third of this machine's memory free: BF16, Q8_0, Q4_K_M or Q2_K."""
    n_weights = sum(t.n_weights for t in model.tensors)
    memory = machine.memory().total
    for name, bpw in (("BF16", 16.0), ("Q8_0", 8.5), ("Q4_K_M", 4.9), ("Q2_K", 3.0)):
        if n_weights * bpw / 8 < memory * 2 / 3:
            return name
    return "Q2_K"


def stored_model(job: Job) -> Model:
    """The source's model with its layers as they stand in the unfinished output."""
    plan, file = job.plan, SourceFile(partial_path(job.settings.output))
    layers = {}
    for t in plan.tensors:
        if layer_of(t.name) >= 0:
            ref = TensorRef(t.name, t.tensor.shape, t.qtype.name, file, plan.data_offset + t.offset, t.nbytes)
            layers[t.name] = ModelTensor(t.name, t.tensor.shape, t.qtype.name, (ref,))
    tensors = tuple(layers.get(t.name, t) for t in job.model.tensors)
    return dataclasses.replace(job.model, tensors=tensors)
