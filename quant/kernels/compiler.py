"""How every kernel is compiled: Numba, without the GIL, cached on disk.

Every compiled function goes through here, so that all of them are kept in one place, or nowhere. `kernel` can be called
from Python; `summing` too, and its sums may be reordered for vectors; `inner` only from other kernels, which spares it
the code that unpacks Python objects, half of the time to compile.

`contract` lets a multiplication and an addition become one fused instruction. Sums are not reordered and NaN keeps its
meaning, so the bytes do not depend on how a tensor was cut. Division by zero gives infinity as in NumPy: a check for it
would keep loops from being vectorized.

Loops over lanes vectorize when they read like `best = new if new < old else old` on values that are already loaded,
and when arrays are local variables: an attribute inside a conditional costs a branch and a reference count.
"""

import threading
from collections.abc import Callable
from typing import Any

from quant.kernels.cache import cache_folder
from quant.kernels.settings import config, njit

_DECORATING = threading.Lock()  # threads that call their first encoders at once import several files at once
_FAST = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        folder = cache_folder()
        with _DECORATING:
            chosen, config.CACHE_DIR = config.CACHE_DIR, str(folder or "")  # read by njit, and only while it decorates
            try:
                made: Callable[..., Any] = njit(cache=folder is not None, **{**_FAST, **options})(function)
            finally:
                config.CACHE_DIR = chosen
        return made

    return decorate


kernel = _compiled()
summing = _compiled(fastmath={"contract", "nsz", "reassoc"})
inner = _compiled(no_cpython_wrapper=True, no_cfunc_wrapper=True)
