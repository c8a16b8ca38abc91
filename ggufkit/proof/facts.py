"""What is recorded of a model file and of a text, so that a result can be told from another. Reads headers only."""

import re
from dataclasses import dataclass
from pathlib import Path

from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import fingerprint
from ggufkit.formats.text import EVALUATION_TEXT, read_text, shipped_text
from ggufkit.runtime import scoring

_ON_HUB = re.compile(r"https://huggingface\.co/([\w.-]{1,96}/[\w.-]{1,96})/?", re.ASCII)
DEFAULT_CTX = scoring.N_CTX


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A file for the record.

    fingerprint  digest of sizes, headers and a sample of the weights
    chats        whether it carries a chat template; None where a result of an older version does not say
    license      as the source's card has it
    base_model   organisation/name on the hub, of the model that the source's card says it was made from
    """

    file: str
    nbytes: int
    fingerprint: str
    arch: str
    name: str
    type: str
    n_weights: int
    bpw: float
    chats: bool | None = None
    license: str = ""
    base_model: str = ""


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What was read. `sha256` of the text's bytes; `n_token` tokens were scored."""

    name: str
    sha256: str
    n_ctx: int
    n_chunk: int
    n_token: int


def model_facts(path: Path) -> ModelFacts:
    """Facts of the GGUF at `path` from its header and a sample of its weights. Raises GgufError."""
    file = GgufFile.open(path)
    try:
        digest = fingerprint(file)
    finally:
        file.close()
    arch, name = (str(file.value(f"general.{key}") or "") for key in ("architecture", "name"))
    url = str(file.value("general.base_model.0.repo_url") or "")
    on_hub = _ON_HUB.fullmatch(url)
    return ModelFacts(
        path.name, file.nbytes, digest, arch, name, file.type_name, file.n_weights, file.bpw,
        chats=bool(file.value("tokenizer.chat_template")),
        license=str(file.value("general.license") or ""),
        base_model=on_hub[1] if on_hub else "",
    )  # fmt: skip


def named_text(path: Path | None) -> tuple[str, str]:
    """Name and content of the text to read: a file, or the one that ships."""
    return (path.name, read_text(path)) if path else (EVALUATION_TEXT, shipped_text(EVALUATION_TEXT))
