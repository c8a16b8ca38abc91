"""Evidence walk by walk from a source that counts its readings: what is held, kept and read again."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError
from ggufkit.fitting import evidence as evidence_module
from ggufkit.fitting.corpus import GROUP_CHUNKS, Corpus
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.notebook import Notebook
from ggufkit.fitting.sources import Observer, OnChunk
from ggufkit.fitting.walks import Shape
from ggufkit.runtime.activations import Activations

N = 32
SHAPES: dict[str, Shape] = {
    "blk.0.ffn_up_exps.weight": (2, N),
    "blk.1.ffn_up_exps.weight": (2, N),
    "output.weight": (1, N),
}


class Source:
    """A model of random inputs, the same in every reading; a walk for every tensor."""

    notes: tuple[str, ...] = ()
    starts_anywhere = True
    identity = "source"

    def __init__(self, n_chunk: int = 8) -> None:
        self.corpus = Corpus(Path("model.gguf"), "text", n_ctx=4)
        self.n_chunk, self.readings = n_chunk, 0

    def walks(self, shapes: Mapping[str, Shape], max_nbytes: int) -> list[frozenset[str]]:
        return [frozenset({name}) for name in shapes]

    def observe(self, observer: Observer, on_chunk: OnChunk = lambda *_: None, *, first_group: int = 0) -> int:
        self.readings += 1
        for chunk in range(self.n_chunk):
            rng = np.random.default_rng(chunk)
            x = rng.standard_normal((4, 1, N)).astype(np.float32)
            if chunk // GROUP_CHUNKS < first_group:
                continue
            if chunk % GROUP_CHUNKS == 0:
                observer.begin_group(chunk // GROUP_CHUNKS)
            for name, (n_expert, _) in SHAPES.items():
                if observer.wants(name):
                    experts = np.zeros((4, 1), np.int32) if n_expert > 1 else None
                    observer(Activations(name, x, experts, n_expert, 1))
            on_chunk(chunk + 1, self.n_chunk)
        return self.n_chunk


def test_a_walk_is_read_once_and_the_last_one_is_dropped() -> None:
    source = Source()
    evidence = Evidence(source, SHAPES)
    for names in evidence.walks:
        evidence.hold(names)
        evidence.hold(names)
        assert all(evidence.of(name) is not None for name in names)
    assert source.readings == 3
    assert evidence.of("blk.0.ffn_up_exps.weight") is not None  # dropped: read again
    assert source.readings == 4
    assert evidence.of("a.tensor.nobody.knows") is None


def test_coverage_grows_with_the_walks() -> None:
    evidence = Evidence(Source(), SHAPES)
    assert evidence.routed_layers == (0, 1)
    evidence.hold(evidence.walks[0])
    assert [row.layer for row in evidence.coverage.layers] == [0]
    evidence.hold(evidence.walks[1])
    assert [row.counts.tolist() for row in evidence.coverage.layers] == [[32, 0], [32, 0]]


def test_what_is_kept_is_not_read_again(tmp_path: Path) -> None:
    first, second = Source(), Source()
    one = Evidence(first, SHAPES, notebook=Notebook(tmp_path / "kept", "same"))
    for names in one.walks:
        one.hold(names)
    one.drop(one.walks[0])
    other = Evidence(second, SHAPES, notebook=Notebook(tmp_path / "kept", "same"))
    other.know(other.walks[0])  # its moments are gone, its counts are not
    other.hold(other.walks[1])
    assert second.readings == 0
    assert [row.counts.tolist() for row in other.coverage.layers] == [[32, 0], [32, 0]]
    kept, read = (evidence.of("blk.1.ffn_up_exps.weight") for evidence in (other, one))
    assert kept is not None and read is not None
    assert np.array_equal(kept.fit.sums, read.fit.sums) and np.array_equal(kept.fit.mass, read.fit.mass)


def test_a_reading_that_ended_early_goes_on_with_the_next_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_module, "_SAVE_EVERY_S", 0.0)
    told: list[int] = []

    def stop(done: int, _total: int) -> None:
        told.append(done)
        if done == 6:
            raise KeyboardInterrupt

    whole = Evidence(Source(), SHAPES)
    whole.hold(whole.walks[0])
    cut = Evidence(Source(), SHAPES, notebook=Notebook(tmp_path / "kept", "same"), on_chunk=stop)
    with pytest.raises(KeyboardInterrupt):
        cut.hold(cut.walks[0])
    assert cut.kept == "0 of 3 readings of the calibration text and 4 chunks of the next"
    told.clear()
    again = Evidence(
        Source(), SHAPES, notebook=Notebook(tmp_path / "kept", "same"), on_chunk=lambda done, _: told.append(done)
    )
    again.hold(again.walks[0])
    assert told == [5, 6, 7, 8]
    one, other = (evidence.of("blk.0.ffn_up_exps.weight") for evidence in (whole, again))
    assert one is not None and other is not None
    assert np.array_equal(one.fit.sums, other.fit.sums) and np.array_equal(one.held_out.sums, other.held_out.sums)


def test_sums_alone_take_one_reading() -> None:
    source = Source()
    evidence = Evidence(source, SHAPES, moments=False, sums=True)
    assert len(evidence.walks) == 1
    evidence.know(evidence.walks[0])
    evidence.know(evidence.walks[0])
    assert source.readings == 1
    assert set(evidence.sums) == set(SHAPES)
    assert evidence.sums["output.weight"].counts.tolist() == [32]


def test_a_text_without_a_part_to_judge_on_is_refused() -> None:
    evidence = Evidence(Source(n_chunk=GROUP_CHUNKS), SHAPES)
    with pytest.raises(InputError, match="more than 4, a part to fit .* or, where types are given, --effort fast"):
        evidence.hold(evidence.walks[0])
