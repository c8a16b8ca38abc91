"""Damaged files at the readers: nothing but typed errors may come out. Run it: python tests/formats/fuzz.py [N] [SEED]

Mutants are made from small valid files by flips, cuts, copies and numbers that sit on a boundary; the same seed makes
the same mutants. Peers judge, too: what the safetensors crate refuses must be refused here, and a GGUF header that is
accepted here must be one that ggml accepts.
"""

import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import safetensors

from ggufkit.errors import InputError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import open_model
from ggufkit.formats.imatrix_file import read_imatrix
from ggufkit.formats.safetensors import open_safetensors
from ggufkit.formats.shards import read_index
from quant import QuantError
from tests.formats import build
from tests.formats.build import array, gguf_bytes, info, kv, legacy_imatrix, safetensors_bytes, tensor
from tests.formats.test_gguf_reader import ggml_accepts

EDGES = (
    *(0, 1, 7, 8, 31, 32, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1),
)
WORDS = (
    *(b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\u0000", b"\\ud800", b"-1", b"1e9", b"null", b"true", b"0"),
    *(b"99999999999999999999", b"\xff", b"\0", b"..", b"/"),
)


class Target(NamedTuple):
    """A valid file, the reader that gets its mutants, and a peer's verdict on what the reader accepted or refused."""

    seed: bytes
    read: Callable[[Path], object]
    peer: Callable[[bytes, Path, bool], str]


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """One to four changes, mostly among the first kilobyte, where headers are."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(min(len(out), 1024) or 1)
        match rng.randrange(8):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                if out:
                    out[at] ^= 1 << rng.randrange(8)
            case 2:
                width = rng.choice((4, 8))
                out[at : at + width] = (rng.choice(EDGES) % 2 ** (8 * width)).to_bytes(width, "little")
            case 3:
                del out[at : at + rng.choice((1, 4, 8, 32))]
            case 4:
                out[at:at] = rng.choice(WORDS)
            case 5:
                del out[rng.randrange(len(out) + 1) :]
            case 6:
                start = rng.randrange(len(out) + 1)
                out[at:at] = out[start : start + rng.choice((1, 8, 24, 64))]
            case 7:
                word = rng.choice(WORDS)
                out[at : at + len(word)] = word
    return bytes(out)


def fix_length(raw: bytes) -> bytes:
    """Half the safetensors mutants keep a true header length, so that they get past the first check."""
    end = raw.rfind(b"}") + 1
    return struct.pack("<Q", max(0, end - 8)) + raw[8:]


def read_gguf(path: Path) -> None:
    file = GgufFile.open(path)
    try:
        for entry in file.metadata.values():
            if entry.item_type is not None:
                list(entry.value)
        for ref in file.tensors:
            if ref.nbytes <= 4096:
                ref.rows(0, ref.n_rows)
    finally:
        file.close()


def no_verdict(raw: bytes, path: Path, accepted: bool) -> str:
    return ""


def crate_verdict(raw: bytes, path: Path, accepted: bool) -> str:
    if not accepted:
        return ""
    try:
        safetensors.deserialize(raw)
    except safetensors.SafetensorError as error:
        return f"accepted, although the safetensors crate says {error}"
    return ""


def ggml_verdict(raw: bytes, path: Path, accepted: bool) -> str:
    return "accepted, although ggml refuses it" if accepted and not ggml_accepts(path) else ""


def targets() -> dict[str, Target]:
    header = {"__metadata__": {"format": "pt"}, "a.weight": tensor(0, 32, shape=[2, 4]),
              "b": tensor(32, 40, dtype="BF16", shape=[4]), "c": tensor(40, 40, shape=[0])}  # fmt: skip
    entries = [
        kv("general.architecture", build.STRING, "llama"), kv("general.alignment", build.U32, 32),
        kv("llama.embedding_length", build.U32, 8), kv("llama.block_count", build.U32, 1),
        array("llama.attention.head_count", build.I32, [2, 2]), kv("x.f", build.F32, 1.5), kv("x.b", build.BOOL, True),
        array("tokenizer.ggml.tokens", build.STRING, ["<unk>", "a", "▁b"]), array("x.u8", build.U8, [1, 2, 3]),
    ]  # fmt: skip
    infos = [info("a", [8], 0), info("b", [32, 2], 32, ggml_type=8), info("c", [4, 2, 2], 128, ggml_type=1)]
    sums = np.arange(8, dtype="<f4").tobytes()
    evidence = [kv("general.type", build.STRING, "imatrix"), array("imatrix.datasets", build.STRING, ["t"]),
                kv("imatrix.chunk_count", build.U32, 1), kv("imatrix.chunk_size", build.U32, 512)]  # fmt: skip
    pair = [info("w.in_sum2", [4, 2], 0), info("w.counts", [1, 2], 32)]
    model = gguf_bytes(entries, infos, bytes(160))
    legacy = legacy_imatrix([("w", 2, [1.0] * 4), ("v", 1, [2.0])], bytes(8))
    index = b'{"metadata": {}, "weight_map": {"a": "m.safetensors", "b": "n.safetensors"}}'
    return {
        "safetensors": Target(safetensors_bytes(header, bytes(40)), open_safetensors, crate_verdict),
        "gguf": Target(model, read_gguf, ggml_verdict),
        "gguf model": Target(model, open_model, no_verdict),
        "imatrix": Target(gguf_bytes(evidence, pair, sums + sums), read_imatrix, no_verdict),
        "imatrix.dat": Target(legacy, read_imatrix, no_verdict),
        "index": Target(index, read_index, no_verdict),
    }  # fmt: skip


def fuzz(n: int, seed: int) -> tuple[Counter[str], list[str]]:
    """`n` mutants for each target; counts of what happened, and the failures with the bytes that caused them."""
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        return _fuzz(n, seed, Path(folder) / "mutant")


def _fuzz(n: int, seed: int, path: Path) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for name, target in targets().items():
        rng = random.Random(f"{seed} {name}")
        for _ in range(n):
            raw = mutate(target.seed, rng)
            if name == "safetensors" and rng.random() < 0.5:
                raw = fix_length(raw)
            path.write_bytes(raw)
            verdict = attempt(target, raw, path)
            counts[f"{name}: {verdict}"] += 1
            if verdict not in ("accepted", "refused"):
                failures.append(f"{name}: {verdict}: {raw!r}")
    return counts, failures


def attempt(target: Target, raw: bytes, path: Path) -> str:
    started = time.process_time()
    try:
        target.read(path)
        verdict = "accepted"
    except (InputError, QuantError) as error:
        verdict = "refused" if str(error).isprintable() else "unprintable message"
    except Exception as error:
        verdict = f"{type(error).__name__} {error}"
    if time.process_time() - started > 1:
        verdict = "took more than a second"
    return target.peer(raw, path, verdict == "accepted") or verdict


def main() -> int:
    given = [int(argument) for argument in sys.argv[1:3]]
    counts, failures = fuzz(*given, *(20_000, 0)[len(given) :])
    for verdict, count in sorted(counts.items()):
        print(f"{count:9d}  {verdict}")
    print(*failures[:3], sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
