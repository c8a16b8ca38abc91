"""Make .venv and install ggufkit into it, with a llama-cpp-python that suits this processor.

Standard library only: it runs before anything is installed. Says what it does, and that it is alive, while it builds.
"""

import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
ENGINE = "llama-cpp-python==0.3.36"
# Only libllama and ggml are used: no tools, no server, no image models.
CMAKE = ["LLAVA_BUILD", "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_SERVER"]
# GCC drops the stores before _tile_loadconfig: quantized matrices crash on processors with AMX (llama.cpp #20824).
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
# The first call of a kernel compiles it; the result is kept on disk.
COMPILE = """
import numpy as np, quant
from quant.kernels import KERNELS
w = np.ones((1, 256), dtype=np.float32)
for name in KERNELS:
    for importance in (None, w[0]):
        quant.quantize(w, quant.quant_type(name), importance=importance)
"""


def main() -> None:
    check_machine()
    pip = venv_pip()
    if not installed(ENGINE):
        install_engine(pip)
    step("installing ggufkit and its tools")
    run([*pip, "install", "--quiet", "--editable", f"{ROOT}[dev]"])
    step("compiling the encoders: about a minute, once")
    with Heartbeat("still compiling"):
        run([str(VENV / "bin" / "python"), "-c", COMPILE])
    step("ready")


def check_machine() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  the reader's python may be older than ours
        sys.exit(
            f"ggufkit needs Python 3.11 or newer, this is {platform.python_version()}. Try: make PYTHON=python3.12"
        )
    if not any(shutil.which(cc) for cc in (os.environ.get("CC") or "cc", "gcc", "clang")):
        sys.exit(
            "a C/C++ compiler is needed to build llama.cpp "
            "(Debian: apt install build-essential; macOS: xcode-select --install)"
        )


def venv_pip() -> list[str]:
    python = VENV / "bin" / "python"
    if not python.exists():
        step("making .venv")
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
        if made.returncode:
            sys.exit("python could not make a virtual environment (Debian: apt install python3-venv)")
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def installed(requirement: str) -> bool:
    name, version = requirement.split("==")
    code = f"import importlib.metadata as m; assert m.version({name!r}) == {version!r}"
    return subprocess.run([VENV / "bin" / "python", "-c", code], capture_output=True, check=False).returncode == 0


def install_engine(pip: list[str]) -> None:
    step(f"installing {ENGINE}: built from source the first time, about 5 minutes on 2 cores; pip keeps the wheel")
    env = dict(os.environ)
    args = [f"-D{option}=OFF" for option in CMAKE]
    if has_amx():
        step(f"this processor has AMX, which this llama.cpp cannot use safely: building with {NO_AMX}")
        args += [f"-DCMAKE_C_FLAGS={NO_AMX}", f"-DCMAKE_CXX_FLAGS={NO_AMX}"]
    env["CMAKE_ARGS"] = " ".join([env.get("CMAKE_ARGS", ""), *(quoted(a) for a in args)]).strip()
    with Heartbeat("still building llama.cpp"):
        run([*pip, "install", "--quiet", ENGINE], env)


def quoted(arg: str) -> str:
    return f"'{arg}'" if " " in arg else arg


def has_amx() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and " amx_tile" in cpuinfo.read_text(errors="replace")


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, check=False)
    if done.returncode:
        sys.exit(
            f"failed ({done.returncode}): {' '.join(map(str, command))}\nRun it again without --quiet to see more."
        )


def step(message: str) -> None:
    print(f"setup: {message}", flush=True)


class Heartbeat:
    """A line every half minute, so that a long build does not look dead."""

    def __init__(self, message: str) -> None:
        self.message, self.done = message, threading.Event()

    def __enter__(self) -> None:
        self.started = time.monotonic()
        threading.Thread(target=self.beat, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.done.set()

    def beat(self) -> None:
        while not self.done.wait(30):
            step(f"{self.message} ({time.monotonic() - self.started:.0f} s)")


if __name__ == "__main__":
    main()
