"""The main job on the shipped model: plan, quantize from safetensors to Q4_K_M, perplexity before and after, some text.

Every step is a command that you can type yourself; each is shown before it runs.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("models/tiny-mixtral")
OUTPUT = Path("out/tiny-mixtral-Q4_K_M.gguf")
PROMPT = "It was a bright cold day, and"


def main() -> None:
    started = time.perf_counter()
    (ROOT / OUTPUT.parent).mkdir(exist_ok=True)
    show("plan", SOURCE, "--type", "Q4_K_M")
    quantized = read("quantize", SOURCE, "-o", OUTPUT, "--type", "Q4_K_M", "--check", "--force", "--restart")
    show("run", OUTPUT, "-p", PROMPT, "-n", "80", "--seed", "7", "--temp", "0.7")
    table(quantized, time.perf_counter() - started)


def command(args: tuple[object, ...]) -> list[str]:
    words = [str(a) for a in args]
    print(
        f"\n\033[1m$ ggufkit {shlex.join(words)}\033[0m" if sys.stdout.isatty() else f"\n$ ggufkit {shlex.join(words)}"
    )
    sys.stdout.flush()
    return [sys.executable, "-m", "ggufkit", *words]


def show(*args: object) -> None:
    subprocess.run(command(args), cwd=ROOT, check=True)


def read(*args: object) -> dict:
    shown = subprocess.run([*command(args), "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(shown.stdout))


def table(quantized: dict, seconds: float) -> None:
    check = quantized["check"]
    rows = [
        ("", "before", "after", ""),
        ("file", SOURCE.name, OUTPUT.name, ""),
        ("type", check["type_before"], quantized["type"], f"{quantized['bpw']:.2f} bits a weight"),
        ("size", mib(quantized["source_nbytes"]), mib(quantized["file_nbytes"]),
         f"{quantized['source_nbytes'] / quantized['file_nbytes']:.1f} times smaller"),
        ("perplexity", f"{check['ppl_before']:.3f}", f"{check['ppl_after']:.3f}",
         f"{100 * (check['ppl_after'] / check['ppl_before'] - 1):+.2f} % ± {100 * check['ln_ratio_error']:.2f}"),
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nquantized in {quantized['seconds']:.1f} s, all of this in {seconds:.0f} s. The file is {OUTPUT}.")


def mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.2f} MiB"


if __name__ == "__main__":
    main()
