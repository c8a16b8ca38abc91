"""What must be equal on two machines so that they make the same bytes, and how they differ.

Versions and code are compared by name. So is what Numba compiles for: kernels fuse and reorder sums as the processor
allows. Last, a small probe is encoded on both: it tells what nobody has thought of.
"""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import ggufkit
import quant
from ggufkit.encoding.provenance import code_digest
from quant import feedback
from quant.curvature import curvature
from quant.products import product

_PACKAGES = ("llama-cpp-python", "numba", "llvmlite", "numpy", "gguf")
_PROBED = ("Q2_K", "Q4_K", "Q6_K", "Q8_0", "IQ4_XS")
_NUMBA_CPU = "set NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and OPENBLAS_CORETYPE to the same on all machines"


def likeness() -> dict[str, str]:
    """What decides the bytes on this machine, by what it is called."""
    return {what: find() for what, find in _facts().items()}


def unlike(wanted: Mapping[str, str]) -> str:
    """What is different here, in words: the first that matters; empty where all is equal."""
    for what, find in _facts().items():
        if (here := find()) != wanted.get(what):
            return f"has {what} {here}, wanted {wanted.get(what)}: its bytes would be others. {_advice(what)}"
    return ""


def _facts() -> dict[str, Callable[[], str]]:
    """In the order in which they are looked at: what takes long comes last."""
    versions = {name: functools.partial(importlib.metadata.version, name) for name in _PACKAGES}
    first = {"ggufkit": lambda: ggufkit.__version__, "the code of ggufkit": _code}
    return first | versions | {"kernels for": _target, "a probe": _probe}


def _advice(what: str) -> str:
    if what in ("ggufkit", "the code of ggufkit", *_PACKAGES):
        return "Install the same there, or take it off the cluster."
    return f"Take it off the cluster, or {_NUMBA_CPU}."


def _code() -> str:
    """Digest of what reads, encodes and writes."""
    digest = hashlib.sha256(code_digest().encode())
    for path in sorted(Path(ggufkit.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _target() -> str:
    """Name and features that Numba compiles for: what the index of its own cache goes by."""
    from numba.core.registry import cpu_target

    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return f"{platform.machine()} {name} (features {hashlib.sha256(features.encode()).hexdigest()[:8]})"


@functools.cache
def _probe() -> str:
    """Digest of a small matrix, searched, fitted, multiplied and exponentiated, as gradients are."""
    draw = np.random.default_rng(11)
    w = draw.standard_normal((8, 512)).astype(np.float32)
    x = draw.standard_normal((700, 512)).astype(np.float32)
    moments = product(np.ascontiguousarray(x.T), x)[None] / np.float32(len(x))
    curve = curvature(moments)
    digest = hashlib.sha256((w @ x[:64].T).tobytes() + np.exp(w).tobytes())
    for name in _PROBED:
        qtype = quant.quant_type(name)
        digest.update(quant.quantize(w, qtype, importance=np.abs(x[0])).tobytes())
        digest.update(feedback.encode(w, qtype, curve, n_refine=1).tobytes())
    return digest.hexdigest()[:12]
