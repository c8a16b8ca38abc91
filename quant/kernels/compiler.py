"""How every kernel is compiled: Numba, without the GIL, cached on disk.

`kernel` can be called from Python; `inner` only from other kernels, which spares it the code that unpacks Python
objects, half of the time to compile.

`contract` lets a multiplication and an addition become one fused instruction. Sums are not reordered and NaN keeps its
meaning, so the bytes do not depend on how a tensor was cut. Division by zero gives infinity as in NumPy: a check for it
would keep loops from being vectorized.

Loops over lanes vectorize when they read like `best = new if new < old else old` on values that are already loaded,
and when arrays are local variables: an attribute inside a conditional costs a branch and a reference count.
"""

from numba import njit

kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
inner = njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"contract", "nsz"},
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)
