"""What it costs to fit to a quick quantized file that stands in for the original: KL divergence, types held.

Run it: python benchmarks/stand_in.py [MODEL …] [--type Q3_K_M] [--tokens 51200] [--chunks 24] [--threads 2]

MODEL is a checkpoint folder, or a name of benchmarks/models. `--effort balanced` with types held, on the same text:
layer by layer in the original's weights, on the whole model in 16 bits, and on quick files of it, as were made where
the original did not fit. The figures are those of benchmarks/fidelity.py, shares those of the first row.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
import arguments
from fidelity import Judge, base_file, calibration_text, found, share_of

from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.fitting.encoders import Effort
from ggufkit.formats.text import CALIBRATION_TEXT, shipped_text
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import quantize_fitted

ROOT = Path(__file__).parents[1]
MODELS = ("smollm2", str(ROOT / "models" / "tiny-mixtral"))
QUICK_TYPE_USERS = ("encoding.running", "workflows.fit_plan")
STAND_INS = ("BF16", "Q8_0", "Q4_K_M", "Q2_K")


def fitted(source: Path, output: Path, text: Path, stand_in: str | None, options: argparse.Namespace) -> float:
    """Seconds that the file took."""
    job = QuantizeSettings(source=source, output=output, recipe=options.type, threads=options.threads, force=True)
    settings = FitSettings(
        quantize=job, effort=Effort.BALANCED, text=(text,), n_tokens=None, by_layer=stand_in is None
    )  # fmt: skip
    users = (mock.patch(f"ggufkit.{user}.quick_type", lambda _: stand_in) for user in QUICK_TYPE_USERS)
    with next(users), next(users):
        return quantize_fitted(settings).seconds


def rows(name: str, folder: Path, options: argparse.Namespace) -> None:
    source, output = found(name), folder / "out.gguf"
    base = base_file(source, folder, options.threads)
    text = calibration_text(base, folder, shipped_text(CALIBRATION_TEXT), options.tokens)
    judge, first = Judge(base, options.chunks, options.threads), None
    print(f"\n{source.name}, {options.type}, {options.tokens} tokens")
    for stand_in in (None, *STAND_INS):
        seconds = fitted(source, output, text, stand_in, options)
        means = judge.scores(output).kld.mean(axis=1)
        first = means if first is None else first
        share, error = share_of(means, first)
        label = "layer by layer" if stand_in is None else f"the whole in {stand_in}"
        print(f"{label:22} kld {means.mean():.5f}  {share:.3f} ± {error:.3f}  {seconds:6.1f} s", flush=True)


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("models", nargs="*", type=arguments.any_model, default=MODELS, metavar="MODEL")
    parser.add_argument("--type", type=arguments.mixture, default="Q3_K_M")
    parser.add_argument("--tokens", type=arguments.count, default=51_200)
    parser.add_argument("--chunks", type=arguments.at_least(4), default=24, help="of 512 tokens, half prose, half code")
    parser.add_argument("--threads", type=arguments.count, default=2)
    options = parser.parse_args()
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            rows(name, Path(folder), options)


if __name__ == "__main__":
    arguments.run(main)
