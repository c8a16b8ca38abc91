"""Where the output goes: every reason why it cannot go there, found before any work and before anything is touched."""

from collections.abc import Iterable
from pathlib import Path

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import OutputError
from ggufkit.formats.partial import check_space, discard_unfinished, partial_path


def check_output(settings: QuantizeSettings, read: Iterable[Path], nbytes: int) -> None:
    """Raise OutputError where `nbytes` bytes cannot be written to `settings.output`.

    read  files that the model is read from
    """
    output = settings.output
    folder = output.parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder. Create it, or choose another place with -o.")
    if output.is_dir():
        raise OutputError(f"{output} is a folder. Name a file: -o {output / 'model.gguf'}")
    for path in (output, partial_path(output)):
        if path.exists() and any(path.samefile(one) for one in _inputs(settings, read)):
            raise OutputError(f"{path} is the input itself. Choose another name with -o.")
    if settings.source.is_dir() and output.suffix != ".gguf" and folder.samefile(settings.source):
        raise OutputError(
            f"{output} would pass for a part of the checkpoint. Name it {output.with_suffix('.gguf').name}."
        )
    if output.exists() and not settings.force:
        raise OutputError(f"{output} exists. Replace it with --force, or choose another name with -o.")
    if settings.restart:
        discard_unfinished(output)
    partial = partial_path(output)
    held = partial.stat().st_blocks * 512 if partial.exists() else 0
    check_space(folder, nbytes - held, f"{output.name}")


def copy_path(output: Path, purpose: str) -> Path:
    """Where a copy of the model lies that is needed on the way; a run that is killed leaves it to the next one.

    purpose  "check", the unquantized one that `--check` measures, or "calibration", the one that is calibrated on
    """
    return output.with_name(f".{output.name}.{purpose}.gguf")


def forget_copy(output: Path, purpose: str) -> None:
    """Remove that copy, finished or not. Raises OutputError where another run is writing it."""
    copy = copy_path(output, purpose)
    discard_unfinished(copy)
    copy.unlink(missing_ok=True)


def _inputs(settings: QuantizeSettings, read: Iterable[Path]) -> list[Path]:
    """Every file that is read, or that belongs to the checkpoint: none of them may be written to."""
    paths = list(read)
    if settings.source.is_dir():
        paths += [path for path in settings.source.iterdir() if path.suffix != ".gguf"]
    return [path for path in [*paths, settings.imatrix] if path is not None and path.exists()]
