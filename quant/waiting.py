"""How the threads of ggml wait for each other: in a short loop, then asleep.

GNU's OpenMP lets a thread spin at every barrier for milliseconds while it believes that a core is free for each thread.
Beside one other busy process it is wrong, and generation falls to a hundredth. Not to spin at all costs more than half
of the speed of a quiet machine, where waking a core takes longer than most operations: about fifty microseconds of
spinning cost nothing there. The runtime reads the environment once, as the library is loaded, so this comes before any
load. Does not know ggml.
"""

import functools
import os

# what OpenMP runtimes read: a user who set one of them knows better
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINS = "1000"  # benchmarks/generate.py compares


@functools.cache
def make_cheap() -> str:
    """Have waiting threads sleep soon, unless the user chose already; returns what is set, and who set it.

    Call it before a library that links OpenMP is loaded.
    """
    chosen = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    if chosen:
        return f"{', '.join(chosen)} (from the environment)"
    os.environ["GOMP_SPINCOUNT"] = SPINS  # reaches C's environment too, and children
    return f"GOMP_SPINCOUNT={SPINS} (set by ggufkit)"
