"""How close quantized files come to their original, on text that took no part in calibration: one table, one run.

Run it: python benchmarks/fidelity.py [MODEL …] [--types Q2_K,…] [--efforts fast,balanced] [--chunks 24]
                                     [--tokens 51200] [--threads 2] [--peer LLAMA_IMATRIX] [--again]

MODEL is a checkpoint folder, a 16-bit GGUF, or a name of benchmarks/models (smollm2, qwen2.5-coder, smollm2-moe).
For every type: llama_model_quantize plain; the same with the importance of llama-imatrix (of --peer, LLAMA_IMATRIX or
PATH; without it of `ggufkit calibrate`, which gives the same numbers to 1e-3, and the table says so); ours at each
effort with the same types; ours with types chosen for at most the bytes of llama.cpp's file with importance. The
figures are mean KL divergence to the 16-bit model with the standard error over chunks, its ratio to llama.cpp's with
importance on the same chunks, the 99.9th percentile, ln of the perplexity ratio, the share of equal likeliest tokens,
bytes and seconds of the whole command, with calibration where it is the first that needs it (`--evidence`). Half of
the chunks are prose, half code, spread over the shipped evaluation texts. Both sides calibrate on the same text: chunks
spread over the shipped one, of that many tokens together. Rows of models of benchmarks/models are kept in
benchmarks/history/; what this kind of machine has put there is not run again without --again.
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
import arguments
import history
import numpy as np
from numpy.typing import NDArray

import models
from ggufkit.architectures.source import open_source
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.corpus import text_chunks
from ggufkit.fitting.cost import shapes_of
from ggufkit.fitting.encoders import Effort
from ggufkit.formats.imatrix_file import read_imatrix
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.recipes.mixtures import mixture
from ggufkit.recipes.search import Target
from ggufkit.runtime import library
from ggufkit.runtime.loading import Device
from ggufkit.runtime.scoring import iter_logits, open_for_scoring
from ggufkit.runtime.vocabulary import open_vocabulary
from ggufkit.workflows.calibrate import CalibrateSettings, calibrate
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import quantize_fitted
from ggufkit.workflows.quantize import quantize
from quant import logits

ROOT = Path(__file__).parents[1]
TINY = ROOT / "models" / "tiny-mixtral"
MODELS = ("smollm2", "smollm2-moe")
TYPES = "Q2_K,Q3_K_M,Q4_K_M"
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


def judged_model(
    folder: Path, options: argparse.Namespace, source: Path = TINY
) -> tuple[Path, Judge, dict[str, tuple[int, int]]]:
    """A model as one file of its own precision, its judge, and (n_expert, n_per_row) of its tensors."""
    base = base_file(source, folder, options.threads)
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


def calibration_text(base: Path, folder: Path, text: str, n_tokens: int) -> Path:
    """What both sides read, all of it: so many tokens of the model, spread over `text`; 0 takes that."""
    out = folder / "calibration.txt"
    if n_tokens:
        with open_vocabulary(base) as vocab:
            chunks = text_chunks(vocab, text, N_CTX, n_tokens=n_tokens, spread=True)
            text = "".join(vocab.detokenize(chunk) for chunk in chunks)
    out.write_text(text, encoding="utf-8", newline="")
    return out


def importance_file(base: Path, text: Path, folder: Path, options: argparse.Namespace) -> tuple[Path, str]:
    """The importance file and who made it."""
    out = folder / "imatrix.gguf"
    if options.peer is None:
        calibrate(CalibrateSettings(model=base, output=out, text=(text,), threads=options.threads))
        return out, "ggufkit calibrate"
    command = [options.peer, "-m", str(base), "-f", str(text), "-c", str(N_CTX), "-t", str(options.threads)]
    command += ["-o", str(out)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return out, "llama-imatrix"


def found(name: str) -> Path:
    """The checkpoint of that path or of that name among benchmarks/models."""
    return models.folder(name) if name in models.NAMES else Path(name)


def base_file(source: Path, folder: Path, threads: int) -> Path:
    """The source itself where it is a GGUF, else all of it in its own precision."""
    if source.is_file():
        return source
    with open_source(source) as model:
        widest = "F32" if next(iter(model.tensors)).dtype == "F32" else "BF16"
    quantize(QuantizeSettings(source=source, output=folder / "base.gguf", recipe=widest, threads=threads))
    return folder / "base.gguf"


def share_of(mine: NDArray[np.float64], his: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of the one by the mean of the other, (n_chunk,) each of the same chunks, and its standard error."""
    share = mine.mean() / his.mean()
    return float(share), float(np.std(mine - share * his, ddof=1) / np.sqrt(len(his)) / his.mean())


class Bench:
    """All rows of one model. `text` to calibrate on is the shipped one without."""

    def __init__(
        self, name: str, source: Path, folder: Path, options: argparse.Namespace, text: str | None = None
    ) -> None:
        self.name, self.options, self.folder = name, options, folder
        self.base = base_file(source, folder, options.threads)
        self.text = calibration_text(self.base, folder, text or shipped_text(CALIBRATION_TEXT), options.tokens)
        self.imatrix, maker = importance_file(self.base, self.text, folder, options)
        self.judge = Judge(self.base, options.chunks, options.threads)
        self.kept: list[history.Row] = []
        print(f"\n{source.name}: base of {self.base.stat().st_size} bytes, importance by {maker}", flush=True)

    def held(self, type_name: str, effort: Effort) -> history.Row:
        """One effort beside llama.cpp with importance, as a row on the tokens that were read."""
        reference = self._row(type_name, "llama.cpp + importance", self._llama(type_name, self.imatrix), None)
        self._row(type_name, f"ggufkit {effort}", self._ours(type_name, effort), reference)
        row = self.kept.pop()
        n_tokens = self.options.tokens or "all"
        return dataclasses.replace(row, part="evidence", figure=f"{row.figure}, {n_tokens} tokens")

    def run(self, type_name: str) -> None:
        """Print the rows of one type."""
        reference = self._row(type_name, "llama.cpp + importance", self._llama(type_name, self.imatrix), None)
        size = (self.folder / "out.gguf").stat().st_size
        self._row(type_name, "llama.cpp plain", self._llama(type_name, None), reference)
        for effort in self.options.efforts:
            self._row(type_name, f"ggufkit {effort}", self._ours(type_name, Effort(effort)), reference)
        chosen = self._ours(type_name, Effort.BALANCED, Target(nbytes=size))
        self._row(type_name, "ggufkit, types chosen", chosen, reference)
        if self.name in models.NAMES:
            history.keep(history.CLOSENESS, history.machine(), self.kept)
        self.kept.clear()

    def _llama(self, type_name: str, imatrix: Path | None) -> float:
        started = time.perf_counter()
        llama_quantize(self.base, self.folder / "out.gguf", type_name, imatrix, self.options.threads)
        return time.perf_counter() - started

    def _ours(self, type_name: str, effort: Effort, target: Target | None = None) -> float:
        job = QuantizeSettings(
            source=self.base, output=self.folder / "out.gguf", recipe=type_name, threads=self.options.threads,
            force=True, provenance=target is not None,
        )  # fmt: skip
        settings = FitSettings(
            quantize=job, effort=effort, target=target, text=(self.text,), n_tokens=None,
            evidence=self.folder / "evidence",
        )  # fmt: skip
        return quantize_fitted(settings).seconds

    def _row(self, type_name: str, label: str, seconds: float, reference: Scores | None) -> Scores:
        path = self.folder / "out.gguf"
        scores = self.judge.scores(path)
        means = scores.kld.mean(axis=1)
        ratio = scores.kld.mean() / (scores if reference is None else reference).kld.mean()
        print(
            f"{type_name:7} {label:27} kld {means.mean():.5f} ± {means.std(ddof=1) / np.sqrt(len(means)):.5f}  "
            f"{ratio:5.3f}x  p99.9 {np.quantile(scores.kld, 0.999):.3f}  ln ppl ratio {scores.ln_ratio.mean():+.5f}  "
            f"same top {100 * scores.same_top.mean():.2f} %  {path.stat().st_size:9d} bytes  {seconds:6.1f} s",
            flush=True,
        )
        if reference is not None:
            self.kept.append(self._result(type_name, label, scores, reference, seconds))
        return scores

    def _result(self, type_name: str, label: str, ours: Scores, peer: Scores, seconds: float) -> history.Row:
        mine, his = ours.kld.mean(axis=1), peer.kld.mean(axis=1)
        tail = " and ".join(f"{np.quantile(scores.kld, 0.999):.2f}" for scores in (ours, peer))
        top = " and ".join(f"{100 * scores.same_top.mean():.1f}" for scores in (ours, peer))
        return history.Row(
            "fidelity", self.name, f"{type_name}, {label}", "nats", "less", [float(mine.mean())], [float(his.mean())],
            f"benchmarks/fidelity.py {self.name} --tokens {self.options.tokens} --chunks {len(his)}",
            f"llama_model_quantize {type_name} with importance",
            f"p99.9 {tail} nats, same top {top} %, {seconds:.0f} s",
            share_of(mine, his)[1], (self.folder / "out.gguf").stat().st_size,
        )  # fmt: skip


def bench_parser(description: str | None) -> argparse.ArgumentParser:
    """What a `Bench` is told, but for the tokens to calibrate on."""
    parser = arguments.parser(description)
    parser.add_argument("--chunks", type=arguments.at_least(4), default=24, help="of 512 tokens, half prose, half code")
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--peer", default=os.environ.get("LLAMA_IMATRIX") or shutil.which("llama-imatrix"))
    return parser


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("models", nargs="*", type=arguments.any_model, default=MODELS, metavar="MODEL")
    parser.add_argument("--types", type=arguments.listed(arguments.mixture), default=TYPES)
    parser.add_argument("--efforts", type=arguments.listed(arguments.one_of("effort", Effort)), default="fast,balanced")
    parser.add_argument("--tokens", type=arguments.count_or_0, default=51_200, help="to calibrate on")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    options = parser.parse_args()
    here, kept = history.name(history.machine()), history.read(history.CLOSENESS)
    done = {(row.model, row.figure.split(",")[0]) for row in kept if row.part == "fidelity" and row.machine == here}
    for name in options.models:
        types = [each for each in options.types if options.again or (name, each) not in done]
        if not types:
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, found(name), Path(folder), options)
            for type_name in types:
                bench.run(type_name)


if __name__ == "__main__":
    arguments.run(main)
