"""What tests share: golden texts, which `pytest --update-golden` writes anew for a person to review."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell that starts a job in the background has it ignore Ctrl-C, which this process and its children would inherit;
# tests of Ctrl-C need it back.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


DATA = Path(__file__).parent / "data"
TINY_MIXTRAL = Path(__file__).parents[1] / "models" / "tiny-mixtral"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text): `text` must equal tests/data/`name`."""

    def check(name: str, text: str) -> None:
        path = DATA / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; write it with --update-golden and review it"
        assert text == path.read_text(), f"{path.name} differs; if that is meant, pytest --update-golden"

    return check


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny("Q6_K"): the shipped model as a GGUF of that mixture, llama.cpp's bytes; made once a session."""
    from ggufkit.encoding.settings import QuantizeSettings
    from ggufkit.workflows.quantize import quantize
    from quant import Encoder

    folder = tmp_path_factory.mktemp("tiny")

    def make(mixture: str) -> Path:
        path = folder / f"tiny-{mixture}.gguf"
        if not path.exists():
            quantize(
                QuantizeSettings(source=TINY_MIXTRAL, output=path, recipe=mixture, encoder=Encoder.GGML, threads=2)
            )
        return path

    return make
