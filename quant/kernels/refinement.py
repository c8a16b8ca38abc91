"""One tile's turn in refinement: levels, sub-blocks, d and dmin, of some rows at a time.

Numbers, rules and what is known of the inputs come as tuples, each part as `quant.refinement` describes it. Knows the
order in which parts are refined. Does not know types or bytes.
"""

from quant.kernels.block_scales import solve_block_scales
from quant.kernels.compiler import inner, kernel
from quant.kernels.feedback import move_levels, of_sub_block
from quant.kernels.sub_blocks import recode

_AT_ONCE = 32  # rows, whose gradients stay near


@kernel
def refine(active, w, numbers, rule, known, gradient, error, first, moved, whole):
    """Rows `active` of a tile whose columns begin with `first` of `error`; see `quant.refinement`."""
    level, code, low, d, dmin = numbers
    values, bounds, has_min = rule
    moments, sums, factor = known
    for start in range(0, active.shape[0], _AT_ONCE):
        rows = active[start : start + _AT_ONCE]
        g, count = gradient[start : start + _AT_ONCE], moved[start : start + _AT_ONCE]
        if whole:
            move_levels(rows, level, code, low, d, dmin, values, g, moments, count)
            recode(rows, level, code, low, d, dmin, values, bounds, factor, g, moments)
        solve_block_scales(rows, level, code, low, d, dmin, values, has_min, moments, sums, g)
        for i in range(rows.shape[0]):
            r = rows[i]
            _lost(w[r], level[r], code[r], low[r], d[r], dmin[r], values, error[start + i, first:])


@inner
def _lost(w, level, code, low, d, dmin, values, error):
    """error[:n] = what is stored less w (n,)."""
    n_sub, size = code.shape[0], w.shape[0] // code.shape[0]
    for s in range(n_sub):
        scale, offset = of_sub_block(code, low, d, dmin, s)
        for j in range(s * size, (s + 1) * size):
            error[j] = scale * values[level[j]] + offset - w[j]
