"""How the threads of ggml wait for each other: asleep, not in a loop that burns a core.

GNU's OpenMP lets a thread spin at every barrier while it believes that a core is free for each thread. Beside one other
busy process it is wrong, and generation falls to a hundredth. The runtime reads the environment once, as the library
is loaded, so this comes before any load. Does not know ggml.
"""

import functools
import os

# what each OpenMP runtime reads: GNU's and LLVM's both know the first
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@functools.cache
def make_cheap() -> str:
    """Have waiting threads sleep, unless the user chose already; says what is set, and by whom.

    Call it before a library that links OpenMP is loaded. Measured by benchmarks/generate.py.
    """
    chosen = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    if chosen:
        return f"{', '.join(chosen)} (from the environment)"
    os.environ["OMP_WAIT_POLICY"] = "passive"  # reaches C's environment too, and children
    return "OMP_WAIT_POLICY=passive (set by ggufkit)"
