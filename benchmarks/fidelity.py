"""How close quantized files come to their original, on text that took no part in calibration: one table, one run.

Run it: python benchmarks/fidelity.py [MODEL …] [--types Q2_K,…] [--efforts fast,balanced,best] [--chunks 48]
                                     [--threads 2] [--peer LLAMA_IMATRIX]

For every type: llama_model_quantize plain; the same with the importance of llama-imatrix (of --peer, LLAMA_IMATRIX or
PATH; without it of `ggufkit calibrate`, which gives the same numbers to 1e-3, and the table says so); ours at each
effort with the same types; ours with types chosen for at most the bytes of llama.cpp's file with importance. The
figures are mean KL divergence to the 16-bit model with the standard error over chunks, its ratio to llama.cpp's with
importance on the same chunks, the median, ln of the perplexity ratio, the share of equal likeliest tokens, bytes and
seconds. Half of the chunks are prose, half code, spread over the shipped evaluation texts. Calibration reads the
shipped calibration text. Seconds of the efforts include gathering evidence; those of measuring types are printed once.
"""

import argparse
import ctypes
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from numpy.typing import NDArray

from ggufkit.architectures.source import open_source
from ggufkit.encoding.job import prepare
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import shapes_of
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.sensitivity import measure
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.formats.imatrix import read_imatrix
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.recipes.mixtures import mixture
from ggufkit.recipes.plan import QuantPlan
from ggufkit.recipes.recipe import Recipe
from ggufkit.recipes.search import Problem, Target, search
from ggufkit.runtime import library
from ggufkit.runtime.engine import Device
from ggufkit.runtime.scoring import iter_logits, open_for_scoring
from ggufkit.workflows.calibrate import CalibrateSettings, calibrate
from ggufkit.workflows.fitted import N_TOKENS, encoder_for
from ggufkit.workflows.quantize import QuantizeSettings, encode, quantize
from quant import logits

ROOT = Path(__file__).parents[1]
MODELS = (ROOT / "models" / "tiny-mixtral", ROOT / "models" / "stories260K")
TYPES = "Q2_K,Q3_K_M,Q4_K_S,Q4_K_M,Q5_K_M"
N_CTX = 512


class Scores(NamedTuple):
    """Per token (n_chunk, n_scored): KL divergence, ln of the ratio of probabilities, same likeliest token."""

    kld: NDArray[np.float64]
    ln_ratio: NDArray[np.float64]
    same_top: NDArray[np.bool_]


class Judge:
    """The original's logits on the evaluation chunks, and what other files make of them."""

    def __init__(self, base: Path, n_chunks: int, threads: int) -> None:
        self._threads = threads
        with self._open(base) as engine:
            self._tokens = np.concatenate(list(self._chunks(engine, n_chunks)))
            self._base = [(block.logits.copy(), block.targets) for block in iter_logits(engine, self._tokens)]

    def scores(self, path: Path) -> Scores:
        rows = []
        with self._open(path) as engine:
            for (base, targets), block in zip(self._base, iter_logits(engine, self._tokens), strict=True):
                one = logits.compare(base, block.logits, targets)
                rows.append((one.kld, one.nll_cand - one.nll_base, one.same_top))
        return Scores(*(np.stack(column) for column in zip(*rows, strict=True)))

    def _open(self, path: Path):
        return open_for_scoring(path, n_ctx=N_CTX, threads=self._threads, device=Device.CPU)

    @staticmethod
    def _chunks(engine, n_chunks: int) -> Iterator[NDArray[np.int32]]:
        for name in ("evaluation-prose.txt", "evaluation-code.txt"):
            tokens = engine.tokenize(shipped_text(name))
            whole = tokens[: len(tokens) // N_CTX * N_CTX].reshape(-1, N_CTX)
            yield whole[np.linspace(0, len(whole) - 1, n_chunks // 2).astype(int)].reshape(-1)


def judged_model(folder: Path, options: argparse.Namespace) -> tuple[Path, Judge, dict[str, tuple[int, int]]]:
    """The shipped model as BF16, its judge, and (n_expert, n_per_row) of its tensors."""
    base = folder / "base.gguf"
    quantize(QuantizeSettings(source=MODELS[0], output=base, recipe="BF16", threads=options.threads))
    with open_source(base) as model:
        shapes = shapes_of(model)
    return base, Judge(base, options.chunks, options.threads), shapes


def llama_quantize(source: Path, output: Path, type_name: str, imatrix: Path | None, threads: int) -> None:
    """llama_model_quantize of the installed llama.cpp, as llama-quantize calls it."""
    lib = library.load()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = mixture(type_name).ftype, threads
    keep = []
    if imatrix is not None:
        entries = read_imatrix(imatrix).entries
        rows = (lib.llama_model_imatrix_data * (len(entries) + 1))()
        for row, (name, entry) in zip(rows, entries.items(), strict=False):
            values = np.ascontiguousarray(entry.importance(), dtype=np.float32)
            keep.append(values)
            row.name, row.size = name.encode(), values.size
            row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = rows
    if lib.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama_model_quantize failed for {type_name}")


def importance_file(base: Path, folder: Path, peer: str | None, threads: int) -> tuple[Path, str]:
    """The importance file and who made it."""
    out, text = folder / "imatrix.gguf", folder / "calibration.txt"
    text.write_text(shipped_text(CALIBRATION_TEXT))
    if peer is None:
        calibrate(CalibrateSettings(model=base, output=out, threads=threads))
        return out, "ggufkit calibrate"
    command = [peer, "-m", str(base), "-f", str(text), "-c", str(N_CTX), "-t", str(threads), "-o", str(out)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return out, "llama-imatrix"


class Bench:
    """All rows of one model."""

    def __init__(self, source: Path, folder: Path, options: argparse.Namespace) -> None:
        self.options, self.folder, self.source = options, folder, source
        self.base = folder / "base.gguf"
        with open_source(source) as model:
            widest = "F32" if next(iter(model.tensors)).dtype == "F32" else "BF16"
        quantize(self._settings("base.gguf", widest))
        self.imatrix, maker = importance_file(self.base, folder, options.peer, options.threads)
        self.judge = Judge(self.base, options.chunks, options.threads)
        print(f"\n{source.name}: {widest} base of {self.base.stat().st_size} bytes, importance by {maker}")
        started = time.perf_counter()
        self.model = open_source(source)
        self.corpus = Corpus(self.base, shipped_text(CALIBRATION_TEXT), n_tokens=N_TOKENS, threads=options.threads)
        self.evidence = Evidence(WholeModel(self.corpus), shapes_of(self.model), sums=True)
        self.evidence.of(self.model.tensors[0].name)
        self.gathering = time.perf_counter() - started
        self.costs = measure(self.model, self.evidence, self.corpus, n_chunks=options.probe_chunks)
        self.choosing = time.perf_counter() - started - self.gathering
        print(f"gathering evidence {self.gathering:.0f} s, measuring what types cost {self.choosing:.0f} s")

    def run(self, type_name: str) -> None:
        """Print the rows of one type."""
        reference = self._row(type_name, "llama.cpp + importance", self._llama(type_name, self.imatrix), None)
        self._row(type_name, "llama.cpp plain", self._llama(type_name, None), reference)
        for effort in self.options.efforts.split(","):
            self._row(type_name, f"ggufkit {effort}", self._ours(type_name, Effort(effort)), reference)
        self._row(type_name, "ggufkit best, types chosen", self._chosen(), reference)

    def _llama(self, type_name: str, imatrix: Path | None) -> float:
        started = time.perf_counter()
        llama_quantize(self.base, self.folder / "out.gguf", type_name, imatrix, self.options.threads)
        self.budget = (self.folder / "out.gguf").stat().st_size if imatrix else self.budget
        return time.perf_counter() - started

    def _ours(self, recipe: object, effort: Effort) -> float:
        started = time.perf_counter()
        encoder = encoder_for(effort, self.evidence)
        settings = dataclasses.replace(self._settings("out.gguf", recipe), provenance=recipe not in TYPES.split(","))
        encode(settings, self.model, encoder)
        return time.perf_counter() - started + (0.0 if effort is Effort.FAST else self.gathering)

    def _chosen(self) -> float:
        encoder = encoder_for(Effort.BEST, self.evidence)

        def plan_of(recipe: Recipe) -> QuantPlan:
            return prepare(self._settings("out.gguf", recipe), self.model, encoder).plan

        tensors = [tensor for tensor in self.model.tensors if tensor.name in self.costs]
        found = search(Problem(tensors, self.costs, plan_of, "searched"), Target(nbytes=self.budget))
        return self._ours(found.recipe, Effort.BEST)

    def _settings(self, output: str, recipe: object) -> QuantizeSettings:
        return QuantizeSettings(
            source=self.source, output=self.folder / output, recipe=recipe, threads=self.options.threads, force=True
        )

    def _row(self, type_name: str, label: str, seconds: float, reference: Scores | None) -> Scores:
        path = self.folder / "out.gguf"
        scores = self.judge.scores(path)
        means = scores.kld.mean(axis=1)
        ratio = scores.kld.mean() / (scores if reference is None else reference).kld.mean()
        print(
            f"{type_name:7} {label:27} kld {means.mean():.5f} ± {means.std(ddof=1) / np.sqrt(len(means)):.5f}  "
            f"{ratio:5.2f}x  median {np.median(scores.kld):.5f}  ln ppl ratio {scores.ln_ratio.mean():+.5f}  "
            f"same top {100 * scores.same_top.mean():.2f} %  {path.stat().st_size:9d} bytes  {seconds:6.1f} s",
            flush=True,
        )
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=MODELS)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--efforts", default="fast,balanced,best")
    parser.add_argument("--chunks", type=int, default=48, help="of 512 tokens, half prose, half code")
    parser.add_argument("--probe-chunks", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", default=os.environ.get("LLAMA_IMATRIX") or shutil.which("llama-imatrix"))
    options = parser.parse_args()
    for source in options.models:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(source, Path(folder), options)
            for type_name in options.types.split(","):
                bench.run(type_name)


if __name__ == "__main__":
    main()
