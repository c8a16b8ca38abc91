"""Several steps as one piece of work: one time that learns from what the steps really took."""

import pytest

from ggufkit import progress
from ggufkit.progress import Progress, Steps


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_guess_is_what_is_left_at_the_beginning(clock: list[float]) -> None:
    told: list[Progress] = []
    steps = Steps({"read": 100.0, "write": 300.0}, told.append)
    steps.step("read")(Progress(0, 10, "chunks"))
    assert (told[0].done, told[0].total, told[0].unit) == (0, 400, "seconds")
    assert told[0].what == "step 1 of 2, read 0 %"


def test_a_step_that_is_slower_than_guessed_makes_all_of_it_longer(clock: list[float]) -> None:
    told: list[Progress] = []
    steps = Steps({"read": 100.0, "write": 300.0}, told.append)
    read = steps.step("read")
    clock[0] += 100
    read(Progress(5, 10, "chunks", "half"))
    assert told[-1].done == 100
    assert told[-1].total - 200 == pytest.approx(600, rel=0.05)  # twice as slow: write, too
    clock[0] += 100
    read(Progress(10, 10, "chunks"))
    clock[0] += 150
    steps.step("write")(Progress(1, 2, "bytes"))
    assert (told[-1].done, told[-1].total) == (350, 500)  # by its own speed from here on
    assert told[-1].what.startswith("step 2 of 2, write 50 %")


def test_what_an_earlier_run_did_tells_nothing_of_the_speed(clock: list[float]) -> None:
    told: list[Progress] = []
    write = Steps({"write": 1000.0}, told.append).step("write")
    write(Progress(80, 100, "bytes"))
    clock[0] += 10
    write(Progress(90, 100, "bytes"))
    assert told[-1].total - told[-1].done == pytest.approx(10)


def test_steps_may_take_turns(clock: list[float]) -> None:
    told: list[Progress] = []
    steps = Steps({"read": 10.0, "write": 10.0}, told.append)
    read, write = steps.step("read"), steps.step("write")
    for half in (1, 2):
        for step in (read, write):
            clock[0] += 5
            step(Progress(half, 2, "parts"))
    assert (told[-1].done, told[-1].total) == (20, 20)
