"""How every kernel is compiled: Numba, without the GIL, cached on disk.

`kernel` can be called from Python; `inner` only from other kernels, which spares it the code that unpacks Python
objects, half of the time to compile.

`contract` lets a multiplication and an addition become one fused instruction. Sums are not reordered and NaN keeps its
meaning, so the bytes do not depend on how a tensor was cut. Division by zero gives infinity as in NumPy: a check for it
would keep loops from being vectorized.

Loops over lanes vectorize when they read like `best = new if new < old else old` on values that are already loaded,
and when arrays are local variables: an attribute inside a conditional costs a branch and a reference count.
"""

from contextlib import suppress
from pathlib import Path

from numba import njit


def _forget_older_than_sources(folder: Path) -> None:
    # Numba recompiles a function when its own file changes, not when one that it calls from another file does
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in (folder / "__pycache__").glob("*.nbi"):
        if index.stat().st_mtime < newest:
            index.unlink(missing_ok=True)


with suppress(OSError):  # sources or cache that may not be listed or changed: nobody edits those
    _forget_older_than_sources(Path(__file__).parent)

kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
inner = njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"contract", "nsz"},
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)
