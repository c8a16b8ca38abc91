"""Opening a GGUF file with a 32k vocabulary: ggufkit's reader beside gguf.GGUFReader, in turns, in one process.

Run it: python benchmarks/inspect_open.py [ROUNDS]. Prints medians in milliseconds and their ratio; "open + decode"
also turns every array of the vocabulary into Python values, which GGUFReader leaves to a later call.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import arguments
import gguf
import numpy as np

from ggufkit.formats.gguf_reader import GgufFile

N_VOCAB = 32_000
N_MERGES = 61_000


def write_model(path: Path) -> None:
    """A header of the size that a Mistral model has: 32,000 pieces with scores, types and merges, 291 tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    pieces = ["▁" + "".join(rng.choice(letters, size)) for size in rng.integers(1, 12, N_VOCAB)]
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(i) for i in range(N_VOCAB)])
    writer.add_token_types([1] * N_VOCAB)
    writer.add_token_merges([f"{a} {b}" for a, b in zip(pieces * 2, pieces[1:] * 2, strict=False)][:N_MERGES])
    for i in range(291):
        writer.add_tensor(f"blk.{i}.weight", np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(path: Path) -> None:
    GgufFile.open(path).close()


def ours_decoded(path: Path) -> None:
    file = GgufFile.open(path)
    for kv in file.metadata.values():
        if kv.item_type is not None:
            list(kv.value)
    file.close()


def theirs(path: Path) -> None:
    gguf.GGUFReader(path)


def theirs_decoded(path: Path) -> None:
    for field in gguf.GGUFReader(path).fields.values():
        field.contents()


def milliseconds(function: Callable[[Path], None], path: Path) -> float:
    started = time.perf_counter()
    function(path)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("rounds", nargs="?", type=arguments.count, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_model(path)
        print(f"{N_VOCAB} pieces, {N_MERGES} merges, 291 tensors, {path.stat().st_size} bytes, {rounds} rounds")
        print(f"{'':16}{'ggufkit ms':>12}{'gguf ms':>12}{'ratio':>8}")
        for label, pair in {"open": (ours, theirs), "open + decode": (ours_decoded, theirs_decoded)}.items():
            times = [[milliseconds(function, path) for function in pair] for _ in range(rounds)]
            mine, peer = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{label:16}{mine:12.1f}{peer:12.1f}{peer / mine:8.1f}")


if __name__ == "__main__":
    arguments.run(main)
