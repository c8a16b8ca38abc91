"""`gate`: may this file be published? Structure first, then quality chunk by chunk until the answer is sure.

Three outcomes: pass, fail, inconclusive where the text or the budget ends first. The order of chunks is drawn from
the seed, so that the same call reads the same text and says the same. Does not print and does not know exit codes.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit import __version__
from ggufkit.architectures.source import open_source
from ggufkit.differences.structure import Finding, Structure, compare_structure, structure_of
from ggufkit.differences.weights import unreadable_blocks
from ggufkit.errors import InputError
from ggufkit.fitting.rates import assumed
from ggufkit.formats.baseline import Baseline, is_baseline
from ggufkit.progress import OnProgress, Progress, Steps, ignore
from ggufkit.proof.checks import size_checks, structure_checks, unmeasurable
from ggufkit.proof.comparison import Comparison
from ggufkit.proof.facts import ModelFacts, model_facts
from ggufkit.proof.limits import GateConfig
from ggufkit.proof.original import facts_of
from ggufkit.proof.scores import ChunkScores
from ggufkit.proof.trial import METERS, Check, Trial
from ggufkit.runtime import machine, scoring
from ggufkit.runtime.loading import Device
from ggufkit.workflows.compare import CompareSettings, Walk
from ggufkit.workflows.diff import DiffReport, DiffSettings, diff, type_findings
from quant.confseq import Outcome

_WEIGHTS, _QUALITY = "weights", "quality"  # steps


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What to judge, against what, and how.

    baseline  the original as a GGUF, or a baseline file made from it
    complete  read all chunks of the budget, for precise figures; the verdict stays the one of the sure answer
    weights   compare the weights too, where the baseline is a GGUF; else only whether they are finite
    """

    candidate: Path
    baseline: Path
    config: GateConfig
    text: Path | None = None
    n_ctx: int = scoring.N_CTX
    complete: bool = False
    weights: bool = True
    threads: int | None = None
    device: Device = Device.AUTO


@dataclass(frozen=True, slots=True)
class Environment:
    """What the result was made with."""

    ggufkit: str
    engine: str
    cpu: str
    threads: int


@dataclass(frozen=True, slots=True)
class GateResult:
    """Everything a report shows.

    sentence    the verdict for people
    n_budget    chunks that could have been read
    comparison  None where quality could not be measured
    diff        None where the baseline is a file without weights
    """

    verdict: Outcome
    sentence: str
    candidate: ModelFacts
    base: ModelFacts
    checks: tuple[Check, ...]
    config: GateConfig
    n_budget: int
    comparison: Comparison | None
    diff: DiffReport | None
    environment: Environment
    seconds: float


def gate(settings: GateSettings, on_progress: OnProgress = ignore) -> GateResult:
    """Judge it. Raises GgufError, InputError (baseline of another text or setting, text too short), EngineError."""
    started = time.perf_counter()
    if settings.baseline.is_dir():
        raise InputError(
            f"{settings.baseline} is a folder. Make a GGUF of it first: ggufkit quantize {settings.baseline} "
            "-o original.gguf --type BF16"
        )
    candidate = model_facts(settings.candidate)
    steps = Steps(_step_seconds(settings, candidate.n_weights), on_progress)
    if is_baseline(settings.baseline):
        stored = Baseline.open(settings.baseline)
        base, report, findings = facts_of(stored), None, _examine_alone(settings.candidate, candidate, stored)
    else:
        base = model_facts(settings.baseline)
        report, findings = _examine(settings, steps.step(_WEIGHTS))
    checks = [
        *structure_checks(findings, settings.config, weights=settings.weights and report is not None),
        *size_checks(candidate, settings.config),
    ]
    trial_checks, comparison, n_budget = _measure_quality(settings, findings, steps.step(_QUALITY))
    checks += trial_checks
    verdict = _verdict(checks)
    return GateResult(
        verdict=verdict,
        sentence=_sentence(verdict, checks, candidate.file, base.file),
        candidate=candidate,
        base=base,
        checks=tuple(checks),
        config=settings.config,
        n_budget=n_budget,
        comparison=comparison,
        diff=report,
        environment=_environment(settings),
        seconds=time.perf_counter() - started,
    )


def _step_seconds(settings: GateSettings, n_weights: int) -> dict[str, float]:
    """What is going to be told of, and how long that is thought to take, at most."""
    with_a_file, rates = is_baseline(settings.baseline), assumed(settings.threads or machine.choose_threads().n)
    seconds = {}
    if settings.weights and not with_a_file:
        seconds[_WEIGHTS] = 2 * n_weights / rates.copy
    n_token = settings.config.chunks * settings.n_ctx * (1 if with_a_file else 2)
    return seconds | {_QUALITY: n_token * n_weights / rates.reading}


def _examine(settings: GateSettings, on_progress: OnProgress) -> tuple[DiffReport, tuple[Finding, ...]]:
    """What differs from a baseline that is a model."""
    pair = DiffSettings(
        base=settings.baseline, candidate=settings.candidate, weights=settings.weights, threads=settings.threads
    )
    report = diff(pair, on_progress)
    extra = () if settings.weights else unreadable_blocks(settings.candidate)
    return report, (*report.findings, *extra)


def _examine_alone(path: Path, facts: ModelFacts, stored: Baseline) -> tuple[Finding, ...]:
    """What differs from the structure that a baseline file has kept, and which weights are not finite."""
    try:
        base = Structure.from_dict(stored.header.structure)
    except ValueError as error:
        raise InputError(f"{stored.path}: the baseline does not say what the model is made of: {error}.") from error
    with open_source(path, allow_requantize=True) as model:
        types = type_findings(model, facts.type)
    return (*compare_structure(base, structure_of(model)), *types, *unreadable_blocks(path))


def _measure_quality(
    settings: GateSettings, findings: tuple[Finding, ...], on_progress: OnProgress
) -> tuple[tuple[Check, ...], Comparison | None, int]:
    """The quality checks, what was measured for them, and the chunks that could have been read."""
    wanted = [name for name in settings.config.limits if name in METERS]
    if not wanted:
        return (), None, 0
    reason = unmeasurable(findings, settings.config, with_a_file=is_baseline(settings.baseline))
    if reason:
        return (_no_logits(reason),), None, 0
    try:
        return _run(settings, on_progress)
    except scoring.LogitsError as error:
        return (_no_logits(str(error)),), None, 0


def _no_logits(reason: str) -> Check:
    return Check("logits", "quality could be measured", "quality", Outcome.FAIL, reason)


def _run(settings: GateSettings, on_progress: OnProgress) -> tuple[tuple[Check, ...], Comparison, int]:
    pair = CompareSettings(
        base=settings.baseline, candidate=settings.candidate, text=settings.text, n_ctx=settings.n_ctx,
        threads=settings.threads, device=settings.device,
    )  # fmt: skip
    with ExitStack() as stack:
        walk = Walk(pair, stack)
        order = _order(walk.n_chunk, settings.config)
        trial = Trial(settings.config, n_plan=len(order) // 3)
        scored: list[ChunkScores] = []
        for one in walk.scores(order):
            scored.append(one)
            on_progress(Progress(len(scored), len(order), "chunks"))
            if trial.is_open:
                trial.add(one)
            # two chunks at least, so that figures have intervals
            if not trial.is_open and not settings.complete and len(scored) > 1:
                break
        return trial.checks(), walk.comparison(scored), len(order)


def _order(n_chunk: int, config: GateConfig) -> NDArray[np.int64]:
    """Numbers of the chunks to read, in a random order: neighbours in a text are alike, a sample of it is not."""
    return np.random.default_rng(config.seed).permutation(n_chunk)[: config.chunks]


def _verdict(checks: list[Check]) -> Outcome:
    outcomes = {check.outcome for check in checks}
    for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    return Outcome.PASS


def _sentence(verdict: Outcome, checks: list[Check], candidate: str, base: str) -> str:
    if verdict is Outcome.PASS:
        n = max((check.n_chunk for check in checks), default=0)
        after = f" after {n} chunks" if n else ""
        return f"{candidate} passes: every check is met for sure{after}, against {base}."
    named = [check for check in checks if check.outcome is verdict]
    if verdict is Outcome.FAIL:
        first = named[0]
        return f"{candidate} fails: {first.title}: {first.message}."
    titles = ", ".join(check.title for check in named)
    return f"{candidate} is undecided when the text ends: {titles}. Use a longer text, more chunks or a wider limit."


def _environment(settings: GateSettings) -> Environment:
    threads = settings.threads or machine.choose_threads().n
    return Environment(__version__, f"llama-cpp-python {version('llama-cpp-python')}", machine.cpu().model, threads)
