"""A GGUF that llama.cpp can run: the source itself, or a copy of it beside the output for as long as it is needed."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ggufkit.encoding.destination import copy_path, forget_copy
from ggufkit.encoding.encoder import PlainEncoder
from ggufkit.encoding.job import prepare, write
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.formats.model import Model
from ggufkit.progress import OnProgress, ignore


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
