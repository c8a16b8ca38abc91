"""How every kernel is compiled: Numba, without the GIL, cached on disk.

`contract` lets a multiplication and an addition become one fused instruction. Sums are not reordered and NaN keeps its
meaning, so the bytes do not depend on how a tensor was cut. Division by zero gives infinity as in NumPy: a check for it
would keep loops from being vectorized.
"""

from numba import njit

kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
