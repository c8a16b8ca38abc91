"""Baseline files: what a model thought at every scored position of a text, small enough to keep and to send.

    ┌──────────┬────────┬──────────────────────┬─────────────────────────────┬─────────────────────┐
    │ magic    │ n      │ header               │ n_chunk × n_scored records  │ SHA-256             │
    │ 8 B      │ u32    │ n B, JSON, deflated  │ record_nbytes each          │ 32 B, of all before │
    └──────────┴────────┴──────────────────────┴─────────────────────────────┴─────────────────────┘
    record  nll f32 │ ln t u16 │ (k + m) × id, u16 or u32 │ (k + m) × ln p u16       little-endian, t the tail's mass

A record is a sketch (see `quant.logits`): the k likeliest tokens, then m drawn from the tail. ln p is stored in steps
of 1/2048 nats, -31.99 and less as the lowest; reading scales top and tail to sum to 1 again, so that a model against
its own file gives a divergence of 1e-7, not 1e-4. What the rest of the distribution would add is estimated without
bias from the draws; the divergence of top and tail alone is a bound from below.

Knows the layout and that nothing in it can be trusted. Does not know which model, text or settings suit it.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.formats import strict_json
from ggufkit.formats.atomic import write_atomic
from ggufkit.formats.files import checked_size, disguise, shown
from quant.logits import Sketch, TopK

MAGIC = b"GKITBAS1"
_HEAD = struct.Struct("<8sI")
_DIGEST_NBYTES = 32
_MAX_HEADER_NBYTES = 64 << 20
_MAX_COUNT = 1 << 31
_STEPS = 2048.0  # a nat
_LOWEST = 65535
_SMALLER_THAN_LLAMA = 40  # times
MOST_ENTRIES = 80


@dataclass(frozen=True, slots=True)
class BaselineHeader:
    """What a baseline is bound to.

    model      facts of the model, `fingerprint` among them
    text       `name` and `sha256` of the text, `tokens_sha256` of its tokens
    settings   everything that logits depend on besides model and text
    structure  metadata and tensors of the model, for structural checks
    n_scored   positions of a chunk
    k, m       entries of a record: likeliest tokens, draws from the tail
    """

    model: dict[str, Any]
    text: dict[str, str]
    settings: dict[str, str]
    structure: dict[str, Any]
    n_ctx: int
    n_chunk: int
    n_scored: int
    n_vocab: int
    k: int
    m: int

    @property
    def id_dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.n_vocab <= 1 << 16 else "<u4")

    @property
    def record(self) -> np.dtype[Any]:
        n = self.k + self.m
        return np.dtype([("nll", "<f4"), ("log_tail", "<u2"), ("ids", self.id_dtype, (n,)), ("log_probs", "<u2", (n,))])


def entries_for(n_vocab: int) -> tuple[int, int]:
    """k and m that keep a record under a fortieth of what llama.cpp stores a position, at most 80 together."""
    llama_nbytes = 2 * (2 * ((n_vocab + 1) // 2) + 4)  # perplexity.cpp: nv 16-bit numbers
    room = llama_nbytes / _SMALLER_THAN_LLAMA - 7  # nll, tail, and a share of the header
    n = int(min(MOST_ENTRIES, room // (4 if n_vocab <= 1 << 16 else 6), n_vocab))
    m = max(2, n // 4)
    return max(1, min(n, n_vocab - 1) - m), m


def write_baseline(path: Path, header: BaselineHeader, sketches: Iterable[Sketch]) -> None:
    """Write the sketches of all chunks, in order, as they come. The file is complete or not there."""
    write_atomic(path, _pieces(header, sketches))


def _pieces(header: BaselineHeader, sketches: Iterable[Sketch]) -> Iterator[bytes]:
    fields = {name: getattr(header, name) for name in BaselineHeader.__dataclass_fields__}
    packed = zlib.compress(json.dumps(fields, sort_keys=True).encode(), 9)
    digest = hashlib.sha256()
    for piece in (_HEAD.pack(MAGIC, len(packed)), packed):
        digest.update(piece)
        yield piece
    for one in sketches:
        piece = _encoded(one, header)
        digest.update(piece)
        yield piece
    yield digest.digest()


def _encoded(one: Sketch, header: BaselineHeader) -> bytes:
    records = np.zeros(len(one.nll), dtype=header.record)
    records["nll"] = one.nll
    records["log_tail"] = _to_steps(one.top.log_tail)
    records["ids"] = np.hstack([one.top.ids, np.maximum(one.draw_ids, 0)])
    records["log_probs"] = np.hstack([_to_steps(one.top.log_probs), _to_steps(one.draw_log_probs)])
    return records.tobytes()


def _to_steps(log_probs: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.minimum(np.rint(np.minimum(-log_probs, 100.0) * _STEPS), _LOWEST).astype(np.uint16)


def is_baseline(path: Path) -> bool:
    """Whether the file begins as a baseline does. False for what cannot be read, pipes and devices among it."""
    try:
        if not path.is_file():  # opening a pipe waits for its writer
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Baseline:
    """An open baseline file, checked as a whole. Records are held in memory: a fortieth of what logits take."""

    path: Path
    header: BaselineHeader
    _records: NDArray[np.void]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read and check the whole file. Raises InputError for anything but a complete baseline."""
        nbytes = checked_size(path, InputError)
        raw = path.read_bytes()
        if raw[:8] != MAGIC:
            what = disguise(raw[:64]) or "is not a baseline file. Make one with `ggufkit baseline`."
            raise InputError(f"{path} {what}")
        if len(raw) < _HEAD.size + _DIGEST_NBYTES:
            raise _damaged(path, f"{nbytes} bytes cannot hold a header")
        if hashlib.sha256(raw[:-_DIGEST_NBYTES]).digest() != raw[-_DIGEST_NBYTES:]:
            raise _damaged(path, "its checksum is wrong")
        header, start = _read_header(path, raw)
        wanted = header.n_chunk * header.n_scored * header.record.itemsize
        if (got := len(raw) - start - _DIGEST_NBYTES) != wanted:
            raise _damaged(path, f"{got} bytes of records, {header.n_chunk} chunks take {wanted}")
        records = np.frombuffer(raw, header.record, offset=start, count=header.n_chunk * header.n_scored)
        if records.size and int(records["ids"].max()) >= header.n_vocab:
            raise _damaged(path, f"token {int(records['ids'].max())} in a vocabulary of {header.n_vocab}")
        if not np.isfinite(records["nll"]).all():
            raise _damaged(path, "a likelihood is not finite")
        return cls(path, header, records.reshape(header.n_chunk, header.n_scored))

    def sketch(self, chunk: int, positions: NDArray[np.integer]) -> Sketch:
        """Sketch of scored positions (n,), counted from the first scored one, of a chunk; scaled to sum to 1."""
        records = self._records[chunk, positions]
        k = self.header.k
        log_probs = records["log_probs"] / -_STEPS
        log_tail = np.where(records["log_tail"] == _LOWEST, -np.inf, records["log_tail"] / -_STEPS)
        ids = records["ids"].astype(np.int32)
        total = np.log(np.exp(log_probs[:, :k]).sum(axis=1) + np.exp(log_tail))
        top = TopK(log_probs[:, :k] - total[:, None], ids[:, :k], log_tail - total)
        return Sketch(top, ids[:, k:], log_probs[:, k:] - total[:, None], records["nll"].astype(np.float64))


def _read_header(path: Path, raw: bytes) -> tuple[BaselineHeader, int]:
    """The header, and where the records begin."""
    _, n = _HEAD.unpack_from(raw)
    end = _HEAD.size + n
    if end > len(raw) - _DIGEST_NBYTES:
        raise _damaged(path, f"the header takes {n} bytes, the file has {len(raw)}")
    inflate = zlib.decompressobj()
    try:
        fields = strict_json.loads(inflate.decompress(raw[_HEAD.size : end], _MAX_HEADER_NBYTES))
    except (zlib.error, ValueError) as error:
        raise _damaged(path, f"the header cannot be read ({error})") from error
    return _checked(path, fields), end


def _checked(path: Path, fields: Any) -> BaselineHeader:
    wanted = BaselineHeader.__dataclass_fields__
    if not isinstance(fields, dict) or set(fields) != set(wanted):
        raise _damaged(path, f"the header has fields {shown(str(sorted(fields)))}, wanted {sorted(wanted)}")
    for name in ("model", "text", "settings", "structure"):
        if not isinstance(fields[name], dict):
            raise _damaged(path, f"{name} is {type(fields[name]).__name__}, wanted an object")
    for name in ("n_ctx", "n_chunk", "n_scored", "n_vocab", "k", "m"):
        if type(fields[name]) is not int or not 0 < fields[name] < _MAX_COUNT:
            raise _damaged(path, f"{name} is {shown(str(fields[name]))}, wanted a whole number from 1 to {_MAX_COUNT}")
    if fields["k"] + fields["m"] > fields["n_vocab"] or fields["k"] + fields["m"] > 4096:
        raise _damaged(path, f"{fields['k']} + {fields['m']} entries of a vocabulary of {fields['n_vocab']}")
    if fields["n_scored"] != fields["n_ctx"] - 1 - fields["n_ctx"] // 2:
        raise _damaged(path, f"{fields['n_scored']} positions of a chunk of {fields['n_ctx']}")
    return BaselineHeader(**fields)


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: the baseline is damaged: {what}. Make it again with `ggufkit baseline`.")
