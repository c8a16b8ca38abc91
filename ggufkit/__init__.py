"""Checkpoint to quantized GGUF, proof of how good it is, and running it. Everything here has a name or a path.

    import ggufkit
    ggufkit.quantize("Mixtral-8x7B-v0.1", "mixtral-Q4_K_M.gguf", type="Q4_K_M")

The verbs are those of the command line (see docs/python.md). They are imported when they are first used, so that
importing the package costs nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers take it for true; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from ggufkit.api import (
        as_dict,
        baseline,
        calibrate,
        compare,
        convert_lora,
        diff,
        gate,
        inspect,
        load,
        perplexity,
        plan,
        quantize,
        render,
    )
    from ggufkit.errors import GgufkitError

__all__ = [
    "GgufkitError", "as_dict", "baseline", "calibrate", "compare", "convert_lora", "diff", "gate", "inspect", "load",
    "perplexity", "plan", "quantize", "render",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'ggufkit' has no attribute {name!r}")
    import importlib

    home = "ggufkit.errors" if name == "GgufkitError" else "ggufkit.api"
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
