"""Why a tensor is far from its original, named: what moved where, what was scaled, what is not a number.

Looks at a tensor only where its sums are suspicious, and then at a sample. Does not know metadata or limits.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ggufkit.differences.structure import Finding
from ggufkit.differences.weights import SLAB_WEIGHTS, Measured
from ggufkit.formats.model import Hparams, Model, ModelTensor
from ggufkit.formats.tensor import F32Array

I64Array = NDArray[np.int64]

ALIEN = 0.6  # with a smaller cosine it is not an encoding of the original: 1-bit types still reach 0.8
ALIKE = 0.8  # a larger one is
SCALED = 1.25  # norms of encodings differ by a few percent
LOSSY = 2.5  # times the expected error; importance and error feedback add less than half
_N_SAMPLE = 256
_MAX_COLUMNS = 1024


def explain(measured: Measured, base: Model, expected: float) -> Iterator[Finding]:
    """What is wrong with one tensor; nothing where it is what its type makes of the original."""
    name = measured.candidate.name
    yield from _not_finite(measured)
    aliens = [e for e, sums in enumerate(measured.sums) if sums.cosine < ALIEN]
    moved = _moved_experts(measured, aliens) if len(measured.sums) > 1 and aliens else {}
    if moved:
        yield _experts_finding(name, moved)
    rest = [e for e in range(len(measured.sums)) if e not in moved]
    found = [finding for e in rest for finding in _rows_findings(measured, e, base)]
    yield from found
    if not moved and not found:
        yield from _size_findings(measured, expected)


def _not_finite(measured: Measured) -> Iterator[Finding]:
    for expert, sums in enumerate(measured.sums):
        rows = np.flatnonzero(sums.n_bad)
        if rows.size:
            where = _place(measured, expert)
            row = measured.candidate.rows(expert, int(rows[0]), int(rows[0]) + 1)[0]
            column = int(np.flatnonzero(~np.isfinite(row))[0])
            yield Finding(
                "nan", where, f"{where}: {int(sums.n_bad.sum())} weights are not finite, the first in row {rows[0]}, "
                f"column {column} ({row[column]}), {len(rows)} row{'s' * (len(rows) > 1)} in all",
            )  # fmt: skip


def _moved_experts(measured: Measured, aliens: list[int]) -> dict[int, int]:
    """Experts of the candidate that hold another expert of the original."""
    tensor = measured.candidate
    start = max(0, (tensor.n_rows - 32) // 2)
    stop = min(tensor.n_rows, start + 32)
    originals = [measured.base.rows(e, start, stop).ravel() for e in range(tensor.n_expert)]
    moved = {}
    for expert in aliens:
        mine = tensor.rows(expert, start, stop).ravel()
        cosines = [_cosine(mine, other) for other in originals]
        best = int(np.argmax(cosines))
        if best != expert and cosines[best] > ALIKE:
            moved[expert] = best
    return moved


def _experts_finding(name: str, moved: dict[int, int]) -> Finding:
    pairs = [(a, b) for a, b in moved.items() if moved.get(b) == a and a < b]
    swapped = [f"experts {a} and {b} are swapped" for a, b in pairs]
    others = [f"expert {a} holds the original's expert {b}" for a, b in moved.items() if moved.get(b) != a]
    return Finding("experts", name, f"{name}: {', '.join(swapped + others)}")


def _rows_findings(measured: Measured, expert: int, base: Model) -> Iterator[Finding]:
    """Rows that resemble another row of the original, another tensor, or nothing."""
    cosines = measured.sums[expert].row_cosines
    rows = np.flatnonzero(cosines < ALIEN)
    if not rows.size or measured.candidate.n_rows < 2:
        return
    where = _place(measured, expert)
    picked = rows[:: max(1, len(rows) // _N_SAMPLE)]
    found, best = _nearest_rows(measured.base, measured.candidate, expert, picked)
    is_moved = best > ALIKE
    if is_moved.mean() > 0.5:
        moves = np.stack([picked[is_moved], found[is_moved]], axis=1)
        message = _moved_rows(measured.candidate, moves, base.hparams, len(rows))
        yield Finding("rope" if "RoPE" in message else "rows", where, f"{where}: {message}")
        return
    twin = _twin(measured, expert, base)
    resembles = f"resembles the original's {twin}" if twin else "does not resemble the original"
    what = f"{len(rows)} of {len(cosines)} rows" if len(rows) < len(cosines) else "the tensor"
    kind = "swapped" if twin else "alien"
    yield Finding(kind, where, f"{where}: {what} {resembles} (relative error {measured.sums[expert].error:.2f})")


def _moved_rows(tensor: ModelTensor, moves: I64Array, hparams: Hparams, n_moved: int) -> str:
    """`moves` (n, 2) in words: row and the original's row that it holds."""
    total = tensor.n_rows
    n_head = hparams.n_head_kv if ".attn_k." in tensor.name else hparams.n_head if ".attn_q." in tensor.name else 0
    if n_head and total % (2 * n_head) == 0:
        order = np.arange(total).reshape(n_head, 2, total // n_head // 2).swapaxes(1, 2).ravel()
        if (moves[:, 1] == np.argsort(order)[moves[:, 0]]).all():
            return "the rows stand as Hugging Face has them, the RoPE permutation is missing"
        if (moves[:, 1] == order[moves[:, 0]]).all():
            return "the RoPE permutation has been applied twice"
    example = f"row {moves[0, 0]} holds the original's row {moves[0, 1]}"
    return f"rows are permuted, {n_moved} of {total} moved: {example}"


def _nearest_rows(
    base: ModelTensor, candidate: ModelTensor, expert: int, rows: I64Array
) -> tuple[I64Array, NDArray[np.float64]]:
    """For each of the candidate's `rows` the original's row that is most alike, and the cosine."""
    step = max(1, -(-base.n_per_row // _MAX_COLUMNS))
    mine = _unit(np.vstack([candidate.rows(expert, int(r), int(r) + 1)[:, ::step] for r in rows]))
    found, best = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), -1.0)
    slab = max(1, SLAB_WEIGHTS // base.n_per_row)
    for start in range(0, base.n_rows, slab):
        originals = _unit(base.rows(expert, start, min(start + slab, base.n_rows))[:, ::step])
        cosines = mine @ originals.T  # (n_rows, slab)
        nearest = cosines.argmax(axis=1)
        value = cosines[np.arange(len(rows)), nearest]
        better = value > best
        found[better], best[better] = nearest[better] + start, value[better]
    return found, best


def _twin(measured: Measured, expert: int, base: Model) -> str | None:
    """Another tensor of the original that the candidate's holds."""
    tensor = measured.candidate
    stop = min(tensor.n_rows, 8)
    mine = tensor.rows(expert, 0, stop).ravel()
    for other in base.tensors:
        same = other.name != tensor.name and other.shape == tensor.shape
        if same and _cosine(mine, other.rows(expert, 0, stop).ravel()) > ALIKE:
            return other.name
    return None


def _size_findings(measured: Measured, expected: float) -> Iterator[Finding]:
    name, whole = measured.candidate.name, measured.whole
    ratio = float((whole.cand2.sum() / whole.base2.sum()) ** 0.5) if whole.base2.sum() else 1.0
    if whole.cosine > ALIKE and not 1 / SCALED < ratio < SCALED:
        yield Finding("scaled", name, f"{name}: the weights are {ratio:.3g} times the original's")
    elif whole.error > LOSSY * expected:
        yield Finding(
            "loss", name, f"{name}: relative error {whole.error:.4f}, {measured.candidate.dtype} alone gives "
            f"{expected:.4f}",
        )  # fmt: skip


def _place(measured: Measured, expert: int) -> str:
    name = measured.candidate.name
    return f"{name} expert {expert}" if measured.candidate.n_expert > 1 else name


def _unit(rows: F32Array) -> F32Array:
    rows = _finite(rows)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: F32Array = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def _finite(x: F32Array) -> F32Array:
    """Values that are not finite become 0: they say nothing about what a tensor resembles."""
    return np.where(np.isfinite(x), x, np.float32(0))


def _cosine(a: F32Array, b: F32Array) -> float:
    a, b = _finite(a), _finite(b)
    norm = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0
