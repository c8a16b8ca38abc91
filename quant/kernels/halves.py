"""Scales as ggml stores them: IEEE half precision, rounded to nearest, ties to even, never infinite.

Knows float16, not blocks. Numba has no float16 type, hence the bit arithmetic.

      float16   s eeeee mmmmmmmmmm                 value (1 + m/1024) · 2^(e-15);  e = 0: m · 2^-24
      float32   s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm  value (1 + m/2^23) · 2^(e-127)
"""

import numpy as np

from quant.kernels.compiler import inner

_LARGEST = np.float32(65504)
_SMALLEST_NORMAL = np.float32(2.0**-14)
_SUBNORMAL_STEPS = np.float32(2.0**24)
_EXPONENT = np.int32(0x7F800000)
_EXPONENT_OF_SMALLEST = np.int32((127 - 14) << 23)
_THIRTEEN_BINADES = np.int32(13 << 23)


@inner
def round_to_half(v):
    """The float32 that a float16 nearest to `v` decodes to; beyond ±65504, ±65504."""
    v = np.float32(min(max(v, -_LARGEST), _LARGEST))
    # v + 2^(e+13) has a last place of 2^(e-10), which is float16's: the addition itself rounds, ties to even
    exponent = max(np.float32(v).view(np.int32) & _EXPONENT, _EXPONENT_OF_SMALLEST)
    shift = np.int32(exponent + _THIRTEEN_BINADES).view(np.float32)
    magnitude = (abs(v) + shift) - shift
    return magnitude if v >= np.float32(0) else -magnitude


@inner
def store_half(v, out, at):
    """Write `v`, a value that `round_to_half` returned, as two bytes, low byte first, to out[at:at+2]."""
    bits = np.float32(v).view(np.int32)
    sign = np.int32(0x8000) if bits < 0 else np.int32(0)
    magnitude = abs(v)
    if magnitude < _SMALLEST_NORMAL:
        half = sign | np.int32(magnitude * _SUBNORMAL_STEPS)
    else:
        half = sign | (((bits & np.int32(0x7FFFFFFF)) >> 13) - np.int32((127 - 15) << 10))
    out[at] = half & 0xFF
    out[at + 1] = half >> 8


@inner
def store_halves(values, at, out):
    """The half values[b] to out[b, at:at+2] of every block."""
    for b in range(out.shape[0]):
        store_half(values[b], out[b], at)
