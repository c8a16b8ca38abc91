"""Streams on the disk: what is whole is found again, what is not is dropped, what was damaged is said."""

import json

import numpy as np
import pytest

from ggufkit.errors import OutputError
from ggufkit.fitting.sources.stream import Streams

SHAPE = (3, 4, 5)
CHUNKS = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)


def opened(folder, identity="a", shape=SHAPE):
    streams = Streams(folder)
    try:
        streams.begin(identity, shape)
    except BaseException:
        streams.close()
        raise
    return streams


def written(folder, layer=2, n=3, identity="a"):
    with opened(folder, identity) as streams, streams.writing(layer) as writer:
        for chunk in CHUNKS[:n]:
            writer.write(chunk)


def test_a_whole_stream_is_found_again_and_read_as_it_was_written(tmp_path):
    written(tmp_path / "s")
    with opened(tmp_path / "s") as again:
        assert again.layers == (2,)
        assert np.array_equal(np.stack(list(again.read(2))), CHUNKS)
        again.drop_before(3)
        assert again.layers == () and not list((tmp_path / "s").glob("*.f32"))


def test_a_stream_that_was_cut_short_does_not_count(tmp_path):
    written(tmp_path / "s", n=2)
    assert len(list((tmp_path / "s").glob("*.f32"))) == 1
    with opened(tmp_path / "s") as again:
        assert again.layers == () and not list((tmp_path / "s").glob("*.f32"))


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"schema": "ggufkit/streams@1"}', "\x00", '{"crc": {"x": 1}}'])
def test_a_state_that_makes_no_sense_is_begun_anew(tmp_path, state):
    written(tmp_path / "s")
    (tmp_path / "s" / "streams.json").write_text(state)
    with opened(tmp_path / "s") as again:
        assert again.layers == ()


def test_streams_of_another_text_are_dropped(tmp_path):
    written(tmp_path / "s")
    with opened(tmp_path / "s", "b") as again:
        assert again.layers == ()


def test_what_the_disk_lost_is_said(tmp_path):
    written(tmp_path / "s")
    path = tmp_path / "s" / "stream-2.f32"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with opened(tmp_path / "s") as again, pytest.raises(OutputError, match=r"stream-2\.f32 is damaged"):
        list(again.read(2))


def test_two_runs_never_share_a_folder(tmp_path):
    with opened(tmp_path / "s"), pytest.raises(OutputError, match="used by another run"):
        opened(tmp_path / "s")
    opened(tmp_path / "s").discard()
    assert not (tmp_path / "s").exists()


def test_a_disk_that_is_too_small_is_said_before_the_start(tmp_path):
    with pytest.raises(OutputError, match="the residual stream of the calibration text needs"):
        opened(tmp_path / "s", "a", (1 << 20, 1 << 20, 1 << 10))


def test_the_state_names_no_place(tmp_path):
    written(tmp_path / "s")
    assert set(json.loads((tmp_path / "s" / "streams.json").read_text())) == {"schema", "identity", "shape", "crc"}
