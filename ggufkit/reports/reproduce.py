"""How to make a gate's result again: the command for a shell and the config that goes with it."""

import json
import shlex
from typing import Any

from ggufkit.workflows.facts import DEFAULT_CTX
from ggufkit.workflows.perplexity import SHIPPED

CONFIG = "gate.toml"


def command(result: dict[str, Any]) -> str:
    """The call of `ggufkit gate`; `config_toml` is what its config holds."""
    comparison = result["comparison"]
    words = ["ggufkit", "gate", result["candidate"]["file"], "--baseline", result["base"]["file"], "--config", CONFIG]
    if comparison and comparison["text"]["name"] != SHIPPED:
        words += ["--text", comparison["text"]["name"]]
    if comparison and comparison["text"]["n_ctx"] != DEFAULT_CTX:
        words += ["--ctx", str(comparison["text"]["n_ctx"])]
    return shlex.join(words)


def config_toml(config: dict[str, Any]) -> str:
    """A gate's config as the file that gives it."""
    lines = [f"alpha = {config['alpha']!r}", f"chunks = {config['chunks']}", f"seed = {config['seed']}"]
    if config["ignore"]:
        lines.append(f"ignore = {json.dumps(config['ignore'])}")
    lines += ["", "[limits]", *(f"{name} = {limit!r}" for name, limit in config["limits"].items())]
    return "\n".join(lines) + "\n"
