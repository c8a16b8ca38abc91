"""Several steps as one piece of work: one time that learns from what the steps really took, and nothing goes back."""

import pytest

from ggufkit import progress
from ggufkit.progress import Progress, Steps
from tests.workflows.forwards import assert_forwards, steps_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_guess_is_what_is_left_at_the_beginning(clock: list[float]) -> None:
    told: list[Progress] = []
    steps = Steps({"read": 100.0, "write": 300.0}, told.append)
    steps.step("read")(Progress(0, 10, "chunks"))
    assert (told[0].part, told[0].left, told[0].step) == (0, 400, "read")
    assert told[0].what == "step 1 of 2, read 0 %"


def test_a_step_that_is_slower_than_guessed_makes_all_of_it_longer(clock: list[float]) -> None:
    told: list[Progress] = []
    steps = Steps({"read": 100.0, "write": 300.0}, told.append)
    read = steps.step("read")
    clock[0] += 100
    read(Progress(5, 10, "chunks", "half"))
    assert told[-1].left == pytest.approx(100 + 600, rel=0.05)  # twice as slow: write, too
    assert told[-1].part == pytest.approx(100 / (100 + told[-1].left))
    clock[0] += 100
    read(Progress(10, 10, "chunks"))
    clock[0] += 150
    steps.step("write")(Progress(1, 2, "bytes"))
    assert told[-1].left == 150  # by its own speed from here on
    assert told[-1].what.startswith("step 2 of 2, write 50 %")


def test_what_an_earlier_run_did_tells_nothing_of_the_speed(clock: list[float]) -> None:
    told: list[Progress] = []
    write = Steps({"write": 1000.0}, told.append).step("write")
    write(Progress(80, 100, "bytes"))
    clock[0] += 10
    write(Progress(90, 100, "bytes"))
    assert told[-1].left == pytest.approx(10)


def test_looking_through_what_is_there_tells_nothing_of_the_speed_either(clock: list[float]) -> None:
    told: list[Progress] = []
    write = Steps({"write": 1000.0}, told.append).step("write")
    for found in range(10, 90, 10):
        clock[0] += 0.1
        write(Progress(found, 100, "bytes", there=found))
    assert told[-1].left == pytest.approx(200)
    clock[0] += 99.2
    write(Progress(90, 100, "bytes", there=80))
    assert told[-1].left == pytest.approx(100)
    assert_forwards(told, ends=False)


def test_steps_that_take_turns_are_shown_as_one(clock: list[float]) -> None:
    told: list[Progress] = []
    turns = {"read and write": ("read", "write")}
    steps = Steps({"read": 10.0, "write": 30.0, "end": 10.0}, told.append, turns)
    read, write = steps.step("read"), steps.step("write")
    for half in (1, 2):
        for step in (read, write):
            clock[0] += 5
            step(Progress(half, 2, "parts"))
    assert [one.what.split(", ")[1] for one in told] == [f"read and write {n} %" for n in (12, 50, 62, 100)]
    assert {one.what[:11] for one in told} == {"step 1 of 2"} and [one.step for one in told[:2]] == ["read", "write"]
    steps.step("end")(Progress(1, 1, "parts"))
    assert_forwards(told)


def test_a_step_that_is_not_needed_takes_no_time(clock: list[float]) -> None:
    """As where all of it was kept."""
    told: list[Progress] = []
    steps = Steps({"read": 1000.0, "write": 100.0}, told.append)
    steps.step("write")(Progress(0, 2, "bytes"))
    assert told[-1].left == 100 and told[-1].what.startswith("step 2 of 2, write 0 %")


@pytest.mark.parametrize("late", ["read", "never thought of"])
def test_whatever_is_told_late_nothing_goes_back(late: str, clock: list[float]) -> None:
    told: list[Progress] = []
    steps = Steps({"read": 100.0, "write": 100.0}, told.append)
    for name, done in [("read", 3), ("write", 4), (late, 1), (late, 9), ("write", 2), ("write", 10)]:
        clock[0] += 10
        steps.step(name)(Progress(done, 10, "parts"))
    assert_forwards(told)
    assert steps_of(told) == ["read", "write"] and [one.step for one in told[2:4]] == [late] * 2
