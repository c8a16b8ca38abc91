"""Gate results as a model card: README.md of a hub page, with what was measured and the commands to measure it again.

Knows dictionaries as `ggufkit.reports.result` makes them. Does not know the hub.
"""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from ggufkit.reports.markdown import escaped, table
from ggufkit.reports.reproduce import CONFIG, command, config_toml
from ggufkit.reports.units import human_bytes
from ggufkit.reports.wording import FIGURES, MARKS, number, text_line


def render(results: Sequence[dict[str, Any]], *, base_model: str | None = None, license_name: str | None = None) -> str:
    """The card of one or several files of one model, smallest first.

    base_model    the original on the hub: organisation/name
    license_name  as the hub spells it: apache-2.0
    """
    ordered = sorted(results, key=lambda result: int(result["candidate"]["nbytes"]))
    first = ordered[0]
    title = first["candidate"]["name"] or first["base"]["name"] or first["candidate"]["arch"]
    blocks = [
        _front_matter(base_model, license_name),
        f"# {escaped(title)}, quantized",
        _summary(first, base_model),
        "## Files",
        _files(ordered),
        "Differences are against the original on the same text; ± is half of the 95 % interval, chunks of the text "
        "taken as independent. ✓ stands where the file is within every limit below for sure.",
    ]
    for result in ordered:
        blocks += _details(result)
    blocks += ["## Reproduce", _reproduce(ordered), "## Run", _run(ordered[-1]), _made_with(first)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _front_matter(base_model: str | None, license_name: str | None) -> str:
    lines = ["library_name: gguf", "pipeline_tag: text-generation", "tags: [gguf, quantized, ggufkit]"]
    if base_model:
        lines += [f"base_model: {json.dumps(base_model)}", "base_model_relation: quantized"]
    if license_name:
        lines.append(f"license: {json.dumps(license_name)}")
    return "\n".join(["---", *lines, "---"])


def _summary(first: dict[str, Any], base_model: str | None) -> str:
    origin = f"[{escaped(base_model)}](https://huggingface.co/{base_model})" if base_model else "its original"
    return (
        f"GGUF files of {origin} ({escaped(first['candidate']['arch'])}), made for llama.cpp and everything built on "
        "it, and measured against the original before they were published."
    )


def _files(results: Sequence[dict[str, Any]]) -> str:
    header = ("", "file", "type", "size", "bits a weight", "KL divergence", "same top token", "ln(PPL ratio)")
    return table(header, [_file(result) for result in results], right=(3, 4, 5, 6, 7))


def _file(result: dict[str, Any]) -> tuple[str, ...]:
    model, comparison = result["candidate"], result["comparison"]
    figures = [_with_reach(comparison, name) for name in ("kld_mean", "same_top", "ln_ppl_ratio")]
    size = human_bytes(model["nbytes"])
    return MARKS[result["verdict"]], model["file"], model["type"], size, f"{model['bpw']:.2f}", *figures


def _with_reach(comparison: dict[str, Any] | None, name: str) -> str:
    row = comparison["figures"].get(name) if comparison else None
    if not row:
        return "–"
    wording = FIGURES[name]
    if row["low"] is None or row["high"] is None:
        return number(row["value"], wording)
    reach = (row["high"] - row["low"]) / 2
    return f"{row['value'] * wording.factor:.{wording.digits}f} ± {number(reach, wording)}"


def _details(result: dict[str, Any]) -> list[str]:
    checks = [check for check in result["checks"] if check["outcome"] != "pass"]
    if not checks:
        return []
    lines = [f"* {MARKS[check['outcome']]} {escaped(check['title'])}: {escaped(check['message'])}" for check in checks]
    return [f"### {escaped(result['candidate']['file'])}: {result['verdict']}", "\n".join(lines)]


def _reproduce(results: Sequence[dict[str, Any]]) -> str:
    first = results[0]
    lines = [f"pip install ggufkit=={first['environment']['ggufkit']}"]
    lines += [command(result) for result in results]
    parts = [_fenced("sh", "\n".join(lines)), f"with `{CONFIG}`:", _fenced("toml", config_toml(first["config"]))]
    if first["comparison"]:
        text = first["comparison"]["text"]
        parts.append(f"Text: {escaped(text_line(text))}, SHA-256 `{text['sha256']}`.")
    parts.append(_fingerprints(results))
    return "\n\n".join(parts)


def _fingerprints(results: Sequence[dict[str, Any]]) -> str:
    models = [results[0]["base"], *(result["candidate"] for result in results)]
    return table(("file", "fingerprint"), [(model["file"], model["fingerprint"]) for model in models])


def _run(result: dict[str, Any]) -> str:
    file = shlex.quote(result["candidate"]["file"])
    return _fenced("sh", f'ggufkit run {file} -p "Once upon a time"\nllama-cli -m {file} -p "Once upon a time"')


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _made_with(result: dict[str, Any]) -> str:
    environment = result["environment"]
    return (
        f"Measured with ggufkit {escaped(environment['ggufkit'])} and {escaped(environment['engine'])} on "
        f"{escaped(environment['cpu'])}."
    )
