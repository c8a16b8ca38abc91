"""`diff`: what makes a candidate differ from its original, without running either: metadata, tensors, weights.

Knows the order of the steps. Findings are named by `structure` and `suspects`; errors are measured by `weights`.
Does not print; judging is for people and for `ggufkit.workflows.gate`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.architectures.source import open_source
from ggufkit.differences.diagnosis import explain
from ggufkit.differences.encodings import expected_error, requantized_from
from ggufkit.differences.structure import Finding, Severity, compare_structure, structure_of
from ggufkit.differences.weights import Measured, TensorError, measure_errors
from ggufkit.errors import RecipeError, UsageError
from ggufkit.formats.model import Model
from ggufkit.progress import OnProgress, Progress, ignore
from ggufkit.proof.facts import ModelFacts, model_facts
from ggufkit.recipes.build import make_plan
from ggufkit.recipes.recipe import Recipe, named, parse_recipe
from ggufkit.runtime import machine
from quant import quant_type

_MAX_RECIPE = 1 << 18
_N_LARGEST = 5  # tensors that are looked at for signs of an earlier quantization


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSettings:
    """base: a GGUF or a Hugging Face folder. candidate: a GGUF. weights: whether to read them, not headers alone."""

    base: Path
    candidate: Path
    weights: bool = True
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What differs, the worst first, and the error of every tensor in the candidate's order."""

    base: str
    candidate: ModelFacts
    findings: tuple[Finding, ...]
    tensors: tuple[TensorError, ...]
    seconds: float

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make the file another model."""
        return tuple(one for one in self.findings if one.severity is Severity.ERROR)


def diff(settings: DiffSettings, on_progress: OnProgress = ignore) -> DiffReport:
    """Compare the files. Raises GgufError, CheckpointError, InputError for files that cannot be read."""
    started = time.perf_counter()
    facts = model_facts(settings.candidate)
    with (
        open_source(settings.base, allow_requantize=True) as base,
        open_source(settings.candidate, allow_requantize=True) as candidate,
    ):
        findings = list(compare_structure(structure_of(base), structure_of(candidate)))
        findings += type_findings(candidate, facts.type)
        tensors: list[TensorError] = []
        if settings.weights:
            tensors, found = _weights(base, candidate, settings.threads, on_progress)
            findings += found
    findings.sort(key=lambda one: one.severity is not Severity.ERROR)
    return DiffReport(settings.base.name, facts, tuple(findings), tuple(tensors), time.perf_counter() - started)


def type_findings(candidate: Model, file_type: str) -> list[Finding]:
    """Tensors of a type with fewer bits than what the file claims to be made by would give them.

    That is the recipe in its metadata, where one of ggufkit's is there, else the mixture.
    """
    recipe = _stored_recipe(candidate, file_type)
    if recipe and any(rule.regex for rule in recipe.rules):  # an expression from a file could run for ever
        return []
    planned = _planned_types(candidate, recipe or file_type)
    claim = f"the file's recipe {recipe.name!r}" if recipe else f"a {file_type} file"
    return [
        Finding("type", t.name, f"{t.name} is {t.dtype}; {claim} has {planned[t.name]} there")
        for t in candidate.tensors
        if t.name in planned and quant_type(t.dtype).bpw < quant_type(planned[t.name]).bpw
    ]


def _stored_recipe(candidate: Model, file_type: str) -> Recipe | None:
    """The recipe that the file says it was made by; None without one, or where it is another type's by now."""
    text = candidate.kv("ggufkit.recipe")
    if not isinstance(text, str) or len(text) > _MAX_RECIPE:
        return None
    try:
        recipe, claimed = parse_recipe(text, "ggufkit.recipe"), named(file_type)
    except (UsageError, RecipeError):
        return None
    return recipe if recipe.file_type == claimed.file_type else None


def _planned_types(candidate: Model, recipe: Recipe | str) -> dict[str, str]:
    """The smaller type of each tensor, of those with and without importance; empty for an unknown mixture."""
    planned: dict[str, str] = {}
    for importance in (None, {t.name for t in candidate.tensors}):
        try:
            plan = make_plan(candidate, recipe, importance=importance)
        except (UsageError, RecipeError):
            continue
        for one in plan.tensors:
            old = planned.get(one.name)
            if old is None or one.qtype.bpw < quant_type(old).bpw:
                planned[one.name] = one.qtype.name
    return planned


def _weights(
    base: Model, candidate: Model, threads: int | None, on_progress: OnProgress
) -> tuple[list[TensorError], list[Finding]]:
    total = float(sum(t.n_weights for t in candidate.tensors))
    done, rows, findings, lossy = 0.0, list[TensorError](), list[Finding](), list[Measured]()
    for measured in measure_errors(base, candidate, threads or machine.choose_threads().n):
        expected, sampled = expected_error(measured.base, measured)
        rows.append(measured.row(expected))
        found = list(explain(measured, base, expected * measured.whole.error / sampled if sampled else expected))
        findings += found
        if measured.candidate.dtype not in ("F32", "F16", "BF16") and all(one.kind == "loss" for one in found):
            lossy.append(measured)
        done += measured.candidate.n_weights
        on_progress(Progress(done, total, "weights", measured.candidate.name))
    earlier = _earlier_quantization(lossy)
    if earlier:  # it explains every loss
        findings = [one for one in findings if one.kind != "loss"]
    return rows, findings + earlier


def _earlier_quantization(tensors: Sequence[Measured]) -> list[Finding]:
    largest = sorted(tensors, key=lambda one: -one.candidate.n_weights)[:_N_LARGEST]
    via = requantized_from([(one.base, one.candidate) for one in largest])
    if via is None:
        return []
    types = ", ".join(sorted({one.candidate.dtype for one in largest}))
    return [
        Finding("requantized", "weights", f"the weights were {via} before they became {types}: the loss of both is in "
                "them. Quantize from the original")
    ]  # fmt: skip
