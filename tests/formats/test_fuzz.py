"""A short run of the fuzzer at every push; `make fuzz` runs it for longer."""

import random
from pathlib import Path

import pytest

from tests.formats.fuzz import Target, attempt, fuzz, mutate, no_verdict, targets


@pytest.mark.parametrize("seed", [0, 1])
def test_mutants_give_nothing_but_typed_errors(seed: int) -> None:
    counts, failures = fuzz(400, seed)
    assert not failures, failures[0]
    for name in targets():  # a fuzzer whose mutants are all refused at the door tests nothing
        assert counts[f"{name}: accepted"] and counts[f"{name}: refused"]


def test_the_fuzzer_sees_a_reader_that_breaks(tmp_path: Path) -> None:
    def careless(path: Path) -> None:
        path.read_bytes().decode("ascii")

    rng = random.Random(0)
    mutants = [mutate(bytes(range(128, 256)) * 9, rng) for _ in range(50)]
    path = tmp_path / "mutant"
    verdicts = set()
    for raw in mutants:
        path.write_bytes(raw)
        verdicts.add(attempt(Target(raw, careless, no_verdict), raw, path).split()[0])
    assert verdicts == {"UnicodeDecodeError"}
