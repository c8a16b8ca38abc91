"""What benchmarks are told: counts, lists, types and models, checked before anything is fetched, built or run.

parser = arguments.parser(__doc__)
parser.add_argument("--tokens", type=arguments.listed(arguments.count), default="512,1024")
…
arguments.run(main)    what is wrong with a file or an option is said in one line
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import models
from ggufkit.architectures.source import open_source
from ggufkit.errors import GgufkitError, UsageError
from ggufkit.formats.nearest import unknown
from ggufkit.recipes import mixtures
from ggufkit.reports.units import parse_bytes
from quant.errors import QuantError

Value = TypeVar("Value")


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the module's docstring as it stands."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def at_least(least: int) -> Callable[[str], int]:
    """A whole number."""

    def check(text: str) -> int:
        number = int(text) if re.fullmatch("[0-9]{1,18}", text) else least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number of at least {least}")
        return number

    return check


count, count_or_0 = at_least(1), at_least(0)


def nbytes(text: str) -> int:
    """Bytes, such as 6GiB."""
    try:
        return parse_bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted bytes such as 6GiB or 800MiB") from None


def positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number above 0")
    return number


def listed(kind: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """Several of `kind`, with commas between."""
    return lambda text: [kind(each) for each in text.split(",")]


def one_of(what: str, known: Iterable[str]) -> Callable[[str], str]:
    """One of the `known` names of `what`."""
    names = list(known)

    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(unknown(what, text, names))
        return text

    return check


def mixture(text: str) -> str:
    """One of llama.cpp's types of files, such as Q4_K_M."""
    try:
        return mixtures.mixture(text).name
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


real_model = one_of("model", models.NAMES)


def any_model(text: str) -> str:
    """One of benchmarks/models, or the path of a checkpoint folder or a GGUF."""
    if text in models.NAMES:
        return text
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} is no file and no folder, nor one of {', '.join(models.NAMES)}")
    try:
        with open_source(Path(text), allow_requantize=True):
            return text
    except GgufkitError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def file(text: str) -> Path:
    """The path of a file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file")
    return Path(text)


def run(main: Callable[[], None]) -> None:
    """`main`, whose errors end in one line and with the exit code of the command line's."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (GgufkitError, QuantError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
