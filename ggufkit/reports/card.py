"""Gate results as a model card: README.md of a hub page, with what was measured and the commands to measure it again.

Does not know the hub.
"""

import json
import re
import shlex
from collections.abc import Sequence

from ggufkit.formats.printable import cleaned
from ggufkit.proof.comparison import Comparison
from ggufkit.proof.facts import ModelFacts
from ggufkit.reports.markdown import escaped, table
from ggufkit.reports.reproduce import command, config_toml, configs
from ggufkit.reports.units import human_bytes
from ggufkit.reports.wording import FIGURES, MARKS, number
from ggufkit.workflows.gate import GateResult

# whether the file carries a chat template -> what it is for; results of older versions do not know
_KINDS: dict[bool | None, list[str]] = {
    True: ["It answers questions: its chat template is in the file."],
    False: ["It continues texts: it has no chat template."],
    None: [],
}


def render(results: Sequence[GateResult], *, base_model: str | None = None, license_name: str | None = None) -> str:
    """The card of one or several files of one model, smallest first.

    base_model    the original on the hub, organisation/name; None takes what the source's card named
    license_name  as the hub spells it: apache-2.0; None takes the source's
    """
    results = cleaned(list(results))
    ordered = sorted(results, key=lambda result: result.candidate.nbytes)
    first = ordered[0]
    title = first.candidate.name or first.base.name or first.candidate.arch
    blocks = [
        _front_matter(first.candidate, base_model, license_name),
        f"# {escaped(title)}, quantized",
        _summary(first, base_model),
        "## Files",
        _files(ordered),
        "Differences are against the original; ± is half of the 95 % interval, chunks of the text taken as "
        "independent. Each file was read until its answer was sure: ✓ stands where it is within every limit below.",
    ]
    for result in ordered:
        blocks += _details(result)
    blocks += ["## Reproduce", _reproduce(ordered), "## Run", _run(_recommended(ordered).candidate), _made_with(first)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _front_matter(model: ModelFacts, base_model: str | None, license_name: str | None) -> str:
    lines = ["library_name: gguf", "pipeline_tag: text-generation", "tags: [gguf, quantized, ggufkit]"]
    if base_model:
        lines += [f"base_model: {json.dumps(base_model)}", "base_model_relation: quantized"]
    elif model.base_model:  # what the original was made from; the relation of these files to it is the hub's to tell
        lines.append(f"base_model: {json.dumps(model.base_model)}")
    if license_name or model.license:
        lines.append(f"license: {json.dumps(license_name or model.license)}")
    return "\n".join(["---", *lines, "---"])


def _summary(first: GateResult, base_model: str | None) -> str:
    origin = f"[{escaped(base_model)}](https://huggingface.co/{base_model})" if base_model else "its original"
    return (
        f"GGUF files of {origin} ({escaped(first.candidate.arch)}), made for llama.cpp and everything built on "
        "it, and measured against the original before they were published."
    )


def _files(results: Sequence[GateResult]) -> str:
    header = ("", "file", "type", "size", "bits a weight", "KL divergence", "same top token", "ln(PPL ratio)", "chunks")
    return table(header, [_file(result) for result in results], right=(3, 4, 5, 6, 7, 8))


def _file(result: GateResult) -> tuple[str, ...]:
    model, comparison = result.candidate, result.comparison
    figures = [_with_reach(comparison, name) for name in ("kld_mean", "same_top", "ln_ppl_ratio")]
    chunks = str(comparison.text.n_chunk) if comparison else "–"
    size = human_bytes(model.nbytes)
    return MARKS[result.verdict], model.file, model.type, size, f"{model.bpw:.2f}", *figures, chunks


def _with_reach(comparison: Comparison | None, name: str) -> str:
    row = comparison.figures.get(name) if comparison else None
    if not row:
        return "–"
    wording = FIGURES[name]
    if row.low is None or row.high is None:
        return number(row.value, wording)
    reach = (row.high - row.low) / 2
    return f"{row.value * wording.factor:.{wording.digits}f} ± {number(reach, wording)}"


def _details(result: GateResult) -> list[str]:
    checks = [check for check in result.checks if check.outcome != "pass"]
    if not checks:
        return []
    lines = [f"* {MARKS[check.outcome]} {escaped(check.title)}: {escaped(check.message)}" for check in checks]
    return [f"### {escaped(result.candidate.file)}: {result.verdict}", "\n".join(lines)]


def _reproduce(results: Sequence[GateResult]) -> str:
    lines = [f"pip install ggufkit=={results[0].environment.ggufkit}"]
    files = configs(results)
    lines += [command(one, config=name) for one in results for name, config in files if config == one.config]
    parts = [_fenced("sh", "\n".join(lines))]
    for name, config in files:
        parts += [f"with `{name}`:", _fenced("toml", config_toml(config))]
    text = next((one.comparison.text for one in results if one.comparison), None)
    if text:
        parts.append(f"Text: {escaped(text.name)} in chunks of {text.n_ctx} tokens, SHA-256 `{text.sha256}`.")
    parts.append(_fingerprints(results))
    return "\n\n".join(parts)


def _fingerprints(results: Sequence[GateResult]) -> str:
    models = [results[0].base, *(result.candidate for result in results)]
    return table(("file", "fingerprint"), [(model.file, model.fingerprint) for model in models])


def _recommended(ordered: Sequence[GateResult]) -> GateResult:
    """The smallest that passes, else the largest."""
    return next((one for one in ordered if one.verdict == "pass"), ordered[-1])


def _run(model: ModelFacts) -> str:
    """Lines for the programs that people have, with a chat where the model knows one."""
    file, modelfile = shlex.quote(model.file), shlex.quote(f"FROM ./{model.file}")
    name = shlex.quote(re.sub(r"[^a-z0-9._-]+", "-", model.file.lower().removesuffix(".gguf")).strip("-.") or "model")
    if model.chats:
        lines = [f'ggufkit run {file} -p "Why is the sky blue?"', f"llama-cli -m {file}"]
    else:
        lines = [f'ggufkit run {file} -p "Once upon a time"', f'llama-completion -m {file} -p "Once upon a time"']
    lines += [
        f"llama-server -m {file}    # a server with OpenAI's API",
        f"echo {modelfile} > Modelfile && ollama create {name} -f Modelfile && ollama run {name}",
        f"lms import {file}    # LM Studio",
    ]
    return "\n\n".join([*_KINDS[model.chats], _fenced("sh", "\n".join(lines))])


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _made_with(result: GateResult) -> str:
    environment = result.environment
    return (
        f"Measured with ggufkit {escaped(environment.ggufkit)} and {escaped(environment.engine)} on "
        f"{escaped(environment.cpu)}."
    )
