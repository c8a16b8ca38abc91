"""The verbs for Python: one function each, with the options of the command of the same name. See docs/python.md.

Paths are text or `Path`; sizes are bytes or text like "20GiB". Every function returns the record that the command
prints with --json (`as_dict`) or for people (`render`), and raises GgufkitError where the command ends in an error.
`on_progress` is called with a `ggufkit.progress.Progress` as the work goes on.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ggufkit.errors import UsageError
from ggufkit.progress import OnProgress, ignore
from ggufkit.reports.units import parse_bytes

if TYPE_CHECKING:
    from ggufkit.loaded import LoadedModel
    from ggufkit.proof.comparison import Comparison
    from ggufkit.proof.limits import GateConfig
    from ggufkit.recipes.recipe import Recipe
    from ggufkit.recipes.search import Target
    from ggufkit.reports.calibrate_text import CalibrateResult
    from ggufkit.reports.quantize_text import QuantizeResult
    from ggufkit.workflows.baseline import BaselineReport
    from ggufkit.workflows.convert_lora import ConvertLoraReport
    from ggufkit.workflows.diff import DiffReport
    from ggufkit.workflows.gate import GateResult
    from ggufkit.workflows.inspect import InspectReport
    from ggufkit.workflows.perplexity import PerplexityReport
    from ggufkit.workflows.plan import PlanReport

AnyPath = str | os.PathLike[str]
Size = int | str
Adapters = Sequence[tuple[AnyPath, float]]  # PEFT adapters' folders, or files where a model runs; and how strongly


def plan(
    source: AnyPath,
    *,
    type: str | None = None,
    recipe: AnyPath | None = None,
    imatrix: AnyPath | None = None,
    target_size: Size | None = None,
    target_bpw: float | None = None,
    threads: int | None = None,
    max_memory: Size | None = None,
    mtp: bool = True,
    lora: Adapters = (),
    allow_requantize: bool = False,
    effort: Literal["fast", "balanced", "best"] | None = None,
    n_tokens: int | None = None,
) -> "PlanReport":
    """What every tensor would become, the file's size, and what it takes to make and to run it; reads headers only, and
    one layer where an effort is asked for."""
    from ggufkit.fitting.encoders import Effort
    from ggufkit.workflows.plan import plan as run

    target = _target(target_size, target_bpw, None, type or recipe)
    return run(
        Path(source), _recipe(type, recipe), imatrix=_path(imatrix), threads=threads or 0,
        max_memory=_size(max_memory), mtp=mtp, lora=_adapters(lora), allow_requantize=allow_requantize,
        target=target, effort=None if effort is None else Effort(effort), n_tokens=n_tokens,
    )  # fmt: skip


def quantize(
    source: AnyPath,
    output: AnyPath,
    *,
    type: str | None = None,
    recipe: AnyPath | None = None,
    imatrix: AnyPath | None = None,
    encoder: Literal["ggufkit", "ggml"] = "ggufkit",
    effort: Literal["fast", "balanced", "best"] | None = None,
    calibration_text: Sequence[AnyPath] = (),
    n_tokens: int = 100_000,
    target_size: Size | None = None,
    target_bpw: float | None = None,
    max_kld: float | None = None,
    stream: Literal["original", "stored"] = "original",
    evidence: AnyPath | None = None,
    threads: int | None = None,
    cluster: str | None = None,
    workers: int = 0,
    max_memory: Size | None = None,
    resume: bool = False,
    restart: bool = False,
    force: bool = False,
    mtp: bool = True,
    lora: Adapters = (),
    allow_nonfinite: bool = False,
    allow_requantize: bool = False,
    on_progress: OnProgress = ignore,
) -> "QuantizeResult":
    """Make a GGUF of a folder or a GGUF. With `effort`, `evidence` or a target, calibrate first and fit."""
    import quant
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.fitting.encoders import Effort
    from ggufkit.fitting.sources.layer_by_layer import Stream
    from ggufkit.reports.quantize_text import QuantizeResult, fit_notes
    from ggufkit.workflows.fit_settings import FitSettings
    from ggufkit.workflows.fitted import quantize_fitted
    from ggufkit.workflows.quantize import quantize as run

    target = _target(target_size, target_bpw, max_kld, type or recipe)
    settings = QuantizeSettings(
        source=Path(source), output=Path(output), recipe=_recipe(type, recipe), imatrix=_path(imatrix),
        encoder=quant.Encoder(encoder), threads=threads or 0, max_memory=_size(max_memory), resume=resume,
        restart=restart, force=force, allow_nonfinite=allow_nonfinite, allow_requantize=allow_requantize,
        mtp=mtp, lora=_adapters(lora), cluster=cluster, workers=workers,
    )  # fmt: skip
    if effort is None and target is None and stream == "original" and evidence is None:
        return QuantizeResult.of(run(settings, on_progress))
    if imatrix is not None:
        raise UsageError("imatrix and effort exclude each other: calibration gathers its own evidence.")
    fit = FitSettings(
        quantize=settings, effort=Effort(effort or "balanced"), text=tuple(map(Path, calibration_text)),
        n_tokens=n_tokens, target=target, stream=Stream(stream), evidence=_path(evidence),
    )  # fmt: skip
    report = quantize_fitted(fit, on_progress)
    return QuantizeResult.of(report.quantized).with_more(notes=fit_notes(report))


def convert_lora(
    adapter: AnyPath,
    output: AnyPath,
    *,
    base: AnyPath | None = None,
    type: Literal["F32", "F16", "BF16"] = "F32",
    force: bool = False,
) -> "ConvertLoraReport":
    """Write the folder of a PEFT adapter as a GGUF, for `load(lora=…)`; of the base model config.json is enough."""
    from ggufkit.formats.outputs import require_place
    from ggufkit.workflows.convert_lora import convert_lora as run

    require_place(Path(output), read=[Path(adapter), _path(base)], force=force)
    return run(Path(adapter), Path(output), base=_path(base), type=type)


def calibrate(
    model: AnyPath,
    output: AnyPath,
    *,
    text: Sequence[AnyPath] = (),
    n_tokens: int | None = None,
    n_ctx: int = 512,
    add_to: Sequence[AnyPath] = (),
    process_output: bool = False,
    force: bool = False,
    threads: int | None = None,
    on_progress: OnProgress = ignore,
) -> "CalibrateResult":
    """How strongly a text uses each input of each expert, written for `quantize(imatrix=…)`."""
    from ggufkit.reports.calibrate_text import CalibrateResult
    from ggufkit.workflows.calibrate import CalibrateSettings, check_settings
    from ggufkit.workflows.calibrate import calibrate as run

    settings = CalibrateSettings(
        model=Path(model), output=Path(output), text=tuple(map(Path, text)), n_tokens=n_tokens, n_ctx=n_ctx,
        add_to=tuple(map(Path, add_to)), process_output=process_output, force=force, threads=threads,
    )  # fmt: skip
    check_settings(settings)
    return CalibrateResult.of(run(settings, on_progress))


def perplexity(
    file: AnyPath,
    *,
    text: AnyPath | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
    on_progress: OnProgress = ignore,
) -> "PerplexityReport":
    """How well a GGUF predicts a text: perplexity as llama-perplexity defines it, and its error."""
    from ggufkit.workflows.perplexity import PerplexitySettings
    from ggufkit.workflows.perplexity import perplexity as run

    settings = PerplexitySettings(file=Path(file), text=_path(text), n_ctx=n_ctx, chunks=chunks, threads=threads)
    return run(settings, on_progress)


def compare(
    base: AnyPath,
    candidate: AnyPath,
    *,
    text: AnyPath | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
    routers: bool = True,
    on_progress: OnProgress = ignore,
) -> "Comparison":
    """How far a GGUF is from its original, a GGUF or a baseline file: perplexity, KL divergence, same top token."""
    from ggufkit.workflows.compare import CompareSettings
    from ggufkit.workflows.compare import compare as run

    settings = CompareSettings(
        base=Path(base), candidate=Path(candidate), text=_path(text), n_ctx=n_ctx, chunks=chunks, threads=threads,
        routers=routers,
    )  # fmt: skip
    return run(settings, on_progress)


def diff(
    base: AnyPath,
    candidate: AnyPath,
    *,
    weights: bool = True,
    threads: int | None = None,
    on_progress: OnProgress = ignore,
) -> "DiffReport":
    """What differs between two models, without running them: tensors, experts, metadata, tokens."""
    from ggufkit.workflows.diff import DiffSettings
    from ggufkit.workflows.diff import diff as run

    return run(DiffSettings(base=Path(base), candidate=Path(candidate), weights=weights, threads=threads), on_progress)


def baseline(
    model: AnyPath,
    output: AnyPath,
    *,
    text: AnyPath | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
    force: bool = False,
    on_progress: OnProgress = ignore,
) -> "BaselineReport":
    """Keep what `compare` and `gate` need of a model's predictions in a small file."""
    from ggufkit.workflows.baseline import BaselineSettings, make_baseline

    settings = BaselineSettings(
        model=Path(model), output=Path(output), text=_path(text), n_ctx=n_ctx, chunks=chunks, threads=threads,
        force=force,
    )  # fmt: skip
    return make_baseline(settings, on_progress)


def gate(
    candidate: AnyPath,
    baseline: AnyPath,
    *,
    config: "AnyPath | GateConfig | None" = None,
    limits: Mapping[str, float] | None = None,
    text: AnyPath | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    complete: bool = False,
    weights: bool = True,
    threads: int | None = None,
    on_progress: OnProgress = ignore,
) -> "GateResult":
    """Judge whether a GGUF may be published; `verdict` is "pass", "fail" or "inconclusive".

    config  a TOML file or a GateConfig; None takes the default limits
    limits  instead of the config's: {"kld_mean": 0.05}
    """
    import dataclasses

    from ggufkit.proof.limits import GateConfig, parse_limits, read_config
    from ggufkit.workflows.gate import GateSettings
    from ggufkit.workflows.gate import gate as run

    asked = GateConfig() if config is None else config if isinstance(config, GateConfig) else read_config(Path(config))
    if limits is not None:
        asked = dataclasses.replace(asked, limits=parse_limits("limits", dict(limits)))
    asked = dataclasses.replace(asked, chunks=chunks or asked.chunks)
    settings = GateSettings(
        candidate=Path(candidate), baseline=Path(baseline), config=asked, text=_path(text), n_ctx=n_ctx,
        complete=complete, weights=weights, threads=threads,
    )  # fmt: skip
    return run(settings, on_progress)


def inspect(file: AnyPath) -> "InspectReport":
    """What is in a GGUF: metadata, tensors, types, sizes. Reads the header only."""
    from ggufkit.workflows.inspect import inspect as run

    return run(Path(file))


def load(file: AnyPath, *, n_ctx: int | None = None, threads: int | None = None, lora: Adapters = ()) -> "LoadedModel":
    """Open a GGUF to generate and chat with; use it in a `with` block, or close it.

    n_ctx    tokens of prompt and answer; None takes the training length, or what fits this machine's memory
    lora     adapters as GGUF, of `convert_lora`, and how strongly each is added
    """
    from ggufkit.loaded import LoadedModel

    return LoadedModel(Path(file), n_ctx=n_ctx, threads=threads, lora=_adapters(lora))


def as_dict(result: Any) -> dict[str, Any]:
    """Any of the records as plain JSON values, as --json prints it; `schema` says which and in which version."""
    from ggufkit.reports.result import as_dict as plain

    return plain(result)


def render(result: Any, *, width: int | None = None) -> str:
    """Any of the records as text, as the command prints it; tables fit into `width` columns."""
    from ggufkit.reports.views import render as text

    return text(result, width)


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _size(size: Size | None) -> int | None:
    if not isinstance(size, str):
        return size
    try:
        return parse_bytes(size)
    except ValueError as error:
        raise UsageError(f"{size!r} is not a size. Write 2GiB, 800M or a number of bytes.") from error


def _adapters(lora: Adapters) -> tuple[tuple[Path, float], ...]:
    return tuple((Path(folder), float(factor)) for folder, factor in lora)


def _recipe(type_name: str | None, recipe: AnyPath | None) -> "Recipe | str":
    from ggufkit.recipes.recipe import read_recipe

    if type_name and recipe:
        raise UsageError("type and recipe exclude each other; a recipe may name its base mixture itself.")
    return read_recipe(Path(recipe)) if recipe else type_name or "Q4_K_M"


def _target(size: Size | None, bpw: float | None, kld: float | None, types: AnyPath | None) -> "Target | None":
    from ggufkit.recipes.search import Target

    given = [value for value in (size, bpw, kld) if value is not None]
    if len(given) > 1:
        raise UsageError("give one of target_size, target_bpw and max_kld")
    if given and types:
        raise UsageError("a target chooses the types itself. Leave out type and recipe, or the target.")
    return Target(nbytes=_size(size), bpw=bpw, kld=kld) if given else None
