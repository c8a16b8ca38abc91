"""`Rates`: how fast this machine does what a fitted run consists of; assumed, or measured in a few seconds.

Measured is one layer of the model in hand: read by llama.cpp, watched, taken back, and a few rows of it encoded. What
differs between models (widths, types, experts) is so in the rates, what differs between runs (tokens, layers) in
`ggufkit.fitting.duration`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_READING = 30e9  # multiply-adds a second and core, of a model that reads text
BACK = 8e9  # and of one that is taken back, there included: plain kernels, nothing repacked
_MOMENTS = 20e9  # and of sums of outer products
PRODUCTS = 20e9  # and of error feedback
RECODED = 12e6  # weights a second and core, of one round that codes sub-blocks anew
PLAIN = 60e6  # weights a second and core, searched with importance
_COPY = 300e6  # bytes a second, read and written
_TABLE = 0.35e6  # weights of sampled rows a second and core, encoded at all types that a tensor may get


@dataclass(frozen=True, slots=True)
class Rates:
    """Of all threads together, a second.

    reading, back, moments  multiply-adds: of text that is read, of text that is read and taken back, of outer products
    copy                    bytes of layers that are written
    table                   weights of sampled rows, at all types that a tensor may get
    encode                  weights of the final encoding, by type and columns; empty where it is not measured
    curvature               seconds of one expert's, with all threads, by columns; empty where it is not measured
    """

    reading: float
    back: float
    moments: float
    copy: float
    table: Mapping[int, float]
    encode: Mapping[tuple[str, int], float] = field(default_factory=dict)
    curvature: Mapping[int, float] = field(default_factory=dict)

    @property
    def are_measured(self) -> bool:
        return bool(self.encode)

    def table_rate(self, n_per_row: int) -> float:
        """Of the columns that are nearest in number."""
        return nearest(self.table, n_per_row)

    def encode_rate(self, type_name: str, n_per_row: int) -> float:
        """Of that type and the columns that are nearest in number, else of what is nearest to both."""
        of_type = {n: rate for (name, n), rate in self.encode.items() if name == type_name}
        return nearest(of_type or {n: rate for (_, n), rate in self.encode.items()}, n_per_row)


def nearest(by_columns: Mapping[int, float], n_per_row: int) -> float:
    """The value of the number of columns that is nearest; 0 where there are none."""
    return by_columns[min(by_columns, key=lambda n: abs(n - n_per_row))] if by_columns else 0.0


def assumed(threads: int) -> Rates:
    """What one core of this project's machine does (benchmarks/fitted.py, benchmarks/calibrate.py)."""
    return Rates(_READING * threads, BACK * threads, _MOMENTS * threads, _COPY, {1: _TABLE * threads})
