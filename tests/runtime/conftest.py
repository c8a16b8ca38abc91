"""The shipped models as GGUF files, made once by the real pipeline. Tests compute with one thread: cores are shared."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import quant
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device
from ggufkit.workflows.quantize import quantize

ROOT = Path(__file__).parents[2]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def make(source: Path, output: Path, recipe: str) -> Path:
    """Encoded as llama.cpp does it, so that its figures hold."""
    quantize(QuantizeSettings(source=source, output=output, recipe=recipe, encoder=quant.Encoder.GGML, threads=1))
    return output


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="session")
def tiny_bf16(files) -> Path:
    return make(ROOT / "models" / "tiny-mixtral", files / "tiny-bf16.gguf", "BF16")


@pytest.fixture(scope="session")
def stories(files, tmp_path_factory) -> Path:
    """stories260K with a chat template of its own."""
    folder = tmp_path_factory.mktemp("stories")
    for file in (ROOT / "models" / "stories260K").iterdir():
        shutil.copy(file, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT_TEMPLATE}))
    return make(folder, files / "stories-f16.gguf", "F16")


@pytest.fixture(scope="session")
def engine(stories) -> Iterator[Engine]:
    with Engine.open(stories, n_ctx=512, n_batch=256, n_outputs=64, threads=1, device=Device.CPU) as opened:
        yield opened
