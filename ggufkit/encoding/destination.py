"""Where the output goes: every reason why it cannot go there, found before any work and before anything is touched."""

from collections.abc import Iterable
from pathlib import Path

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import OutputError
from ggufkit.formats.outputs import beside, followed, require_place
from ggufkit.formats.unfinished import check_space, discard_unfinished, journal_path, partial_path, taken_nbytes


def check_output(settings: QuantizeSettings, read: Iterable[Path], nbytes: int) -> None:
    """Raise OutputError where `nbytes` bytes cannot be written to `settings.output`.

    read  files that the model is read from
    """
    output = settings.output
    folder = followed(output).parent
    inputs = [settings.source, settings.imatrix, *read]
    require_place(output, read=inputs, force=settings.force)
    for path in (partial_path(output), journal_path(output)):
        require_place(path, read=inputs, force=True)
    if settings.source.is_dir() and output.suffix != ".gguf" and folder.samefile(settings.source):
        raise OutputError(
            f"{output} would pass for a part of the checkpoint. Name it {output.with_suffix('.gguf').name}."
        )
    if settings.restart:
        discard_unfinished(output)
    check_space(folder, nbytes - taken_nbytes(partial_path(output)), f"{output.name}")


def copy_path(output: Path, purpose: str) -> Path:
    """Where a copy of the model lies that is needed on the way; a run that is killed leaves it to the next one.

    purpose  "check", the unquantized one that `--check` measures, or "calibration", the one that is calibrated on
    """
    return beside(output, f".{purpose}.gguf", prefix=".")


def layers_folder(output: Path) -> Path:
    """Where one layer of the model lies at a time, and what goes into it, until the output is there."""
    return beside(output, ".layers", prefix=".")


def forget_copy(output: Path, purpose: str) -> None:
    """Remove that copy, finished or not. Raises OutputError where another run is writing it."""
    copy = copy_path(output, purpose)
    discard_unfinished(copy)
    copy.unlink(missing_ok=True)
