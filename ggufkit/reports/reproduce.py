"""How to make a gate's result again: the command for a shell and the config that goes with it."""

import json
import shlex
from collections.abc import Sequence

from ggufkit.formats.text import EVALUATION_TEXT
from ggufkit.proof.facts import DEFAULT_CTX
from ggufkit.proof.limits import GateConfig
from ggufkit.workflows.gate import GateResult

CONFIG = "gate.toml"


def command(result: GateResult, *, config: str = CONFIG) -> str:
    """The call of `ggufkit gate`; `config_toml` is what the file `config` holds."""
    comparison = result.comparison
    words = ["ggufkit", "gate", result.candidate.file, "--baseline", result.base.file, "--config", config]
    if comparison and comparison.text.name != EVALUATION_TEXT:
        words += ["--text", comparison.text.name]
    if comparison and comparison.text.n_ctx != DEFAULT_CTX:
        words += ["--ctx", str(comparison.text.n_ctx)]
    # two chunks are read at least, and no more than the last check needs, but where all were asked for
    if comparison and comparison.text.n_chunk > max([2, *(check.n_chunk for check in result.checks)]):
        words.append("--complete")
    if result.diff and not any(check.name == "weights" for check in result.checks):
        words.append("--no-weights")
    return shlex.join(words)


def configs(results: Sequence[GateResult]) -> list[tuple[str, GateConfig]]:
    """The configs of results, each once, with the names of their files: one is gate.toml, several are numbered."""
    different: list[GateConfig] = []
    for result in results:
        if result.config not in different:
            different.append(result.config)
    if len(different) == 1:
        return [(CONFIG, different[0])]
    stem, suffix = CONFIG.split(".")
    return [(f"{stem}-{number}.{suffix}", config) for number, config in enumerate(different, 1)]


def config_toml(config: GateConfig) -> str:
    """A gate's config as the file that gives it."""
    lines = [f"alpha = {config.alpha!r}", f"chunks = {config.chunks}", f"seed = {config.seed}"]
    if config.ignore:
        lines.append(f"ignore = {json.dumps(config.ignore)}")
    lines += ["", "[limits]", *(f"{name} = {limit!r}" for name, limit in config.limits.items())]
    return "\n".join(lines) + "\n"
