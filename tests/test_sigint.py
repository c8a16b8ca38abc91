"""Ctrl-C is not lost where Python drops what is raised."""

import gc
import signal
import sys
import time
import weakref

import pytest

from ggufkit import sigint
from ggufkit.runtime import library


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sigint.hear()
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    yield
    signal.signal(signal.SIGINT, before)


def _wait() -> None:
    for _ in range(500):
        time.sleep(0.01)


def test_ctrl_c_while_llama_cpp_tells_its_log_is_heard(monkeypatch):
    lib = library.load()
    sent: list[bool] = []

    def add(_level: int, _text: str) -> None:
        if not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(library._THREAD.ring, "add", add)
    with pytest.raises(KeyboardInterrupt):
        lib.llama_model_load_from_file(b"/no/such/file.gguf", lib.llama_model_default_params())
        _wait()
    assert sent


def test_ctrl_c_while_an_object_goes_is_heard():
    class Gone:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        gone = Gone()
        del gone
        _wait()


def _ctrl_c(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_what_a_library_has_given_to_the_garbage_collector_is_heard(capfd):
    def once(*_: object) -> None:
        gc.callbacks.remove(once)
        _ctrl_c()

    gc.callbacks.append(once)
    with pytest.raises(KeyboardInterrupt):
        gc.collect()
        _wait()
    assert once not in gc.callbacks and not capfd.readouterr().err


def test_ctrl_c_in_the_callback_of_a_weak_reference_is_heard(capfd):
    class Gone:
        pass

    gone = Gone()
    kept = weakref.ref(gone, _ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        del gone
        _wait()
    assert kept() is None and not capfd.readouterr().err


def test_what_else_is_dropped_is_told_as_before(capfd):
    class Gone:
        def __del__(self) -> None:
            raise ValueError("told")

    gone = Gone()
    del gone
    assert "ValueError: told" in capfd.readouterr().err


def test_ctrl_c_elsewhere_comes_at_once():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_somebody_elses_stays():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sigint.hear()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
