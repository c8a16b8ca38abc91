"""Baseline files: what is read is what was written, small, and nothing damaged passes."""

import dataclasses
import json
import os
import struct
import zlib
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError, OutputError
from ggufkit.formats.baseline import MAGIC, Baseline, BaselineHeader, entries_for, is_baseline, write_baseline
from quant import logits

N_VOCAB, N_CTX, N_CHUNK = 1000, 64, 3
N_SCORED = N_CTX - 1 - N_CTX // 2
K, M = entries_for(N_VOCAB)
HEADER = BaselineHeader(
    model={"fingerprint": "00"}, text={"sha256": "11"}, settings={"engine": "x"}, structure={},
    n_ctx=N_CTX, n_chunk=N_CHUNK, n_scored=N_SCORED, n_vocab=N_VOCAB, k=K, m=M,
)  # fmt: skip
TARGETS = np.arange(N_SCORED)


def chunk_logits(chunk: int, noise: float = 0.0) -> np.ndarray:
    x = np.random.default_rng(chunk).normal(0, 3, (N_SCORED, N_VOCAB))
    return (x + np.random.default_rng(100 + chunk).normal(0, noise, x.shape)).astype(np.float32)


def sketches(k: int = K, m: int = M) -> list[logits.Sketch]:
    uniforms = (np.arange(m) + np.random.default_rng(7).random((N_SCORED, m))) / m
    return [logits.sketch(chunk_logits(chunk), TARGETS, k, uniforms) for chunk in range(N_CHUNK)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_baseline(tmp_path / "base.gkb", HEADER, sketches())
    return tmp_path / "base.gkb"


def test_what_is_read_is_what_was_written(path: Path) -> None:
    baseline = Baseline.open(path)
    assert baseline.header == HEADER
    positions = np.array([0, 5, N_SCORED - 1])
    got, wrote = baseline.sketch(1, positions), sketches()[1]
    assert (got.top.ids == wrote.top.ids[positions]).all()
    assert (got.draw_ids == wrote.draw_ids[positions]).all()
    np.testing.assert_allclose(got.nll, wrote.nll[positions], rtol=1e-7)
    np.testing.assert_allclose(got.top.log_probs, wrote.top.log_probs[positions], atol=2 / 2048)
    np.testing.assert_allclose(np.exp(got.top.log_probs).sum(axis=1) + np.exp(got.top.log_tail), 1, rtol=1e-12)


def test_the_model_itself_is_nearly_no_distance_away(path: Path) -> None:
    baseline = Baseline.open(path)
    for chunk in range(N_CHUNK):
        got = logits.compare_sketch(baseline.sketch(chunk, TARGETS), chunk_logits(chunk), TARGETS)
        assert (got.kld_low >= -1e-12).all()
        assert got.kld.max() < 1e-6
        assert got.same_top.all()


def test_another_model_is_as_far_away_as_from_the_logits_themselves(path: Path) -> None:
    baseline = Baseline.open(path)
    exact, estimate, low = [], [], []
    for chunk in range(N_CHUNK):
        cand = chunk_logits(chunk, noise=0.2)
        exact.append(logits.compare(chunk_logits(chunk), cand, TARGETS).kld)
        got = logits.compare_sketch(baseline.sketch(chunk, TARGETS), cand, TARGETS)
        estimate.append(got.kld)
        low.append(got.kld_low)
        # the stated bound: coarse divergence is no more than the whole, but for the rounding of ln p
        assert (got.kld_low <= exact[-1] + 3e-4).all()
    assert np.mean(low) <= np.mean(exact)
    assert np.mean(estimate) == pytest.approx(np.mean(exact), rel=0.1)


@pytest.mark.parametrize("n_vocab", [512, 1024, 32_000, 50_257, 128_256, 151_936])
def test_a_file_takes_less_than_a_fortieth_of_llama_cpps(n_vocab: int) -> None:
    k, m = entries_for(n_vocab)
    header = dataclasses.replace(HEADER, n_vocab=n_vocab, k=k, m=m, n_ctx=512, n_scored=255)
    llama_nbytes = 255 * (2 * ((n_vocab + 1) // 2) + 4) * 2
    assert 255 * header.record.itemsize < llama_nbytes / 40
    assert k >= 1 and m >= 2


def test_large_vocabularies_take_wider_ids(tmp_path: Path) -> None:
    header = dataclasses.replace(HEADER, n_vocab=100_000, n_chunk=1, k=2, m=2)
    x = np.zeros((N_SCORED, 100_000), np.float32)
    x[:, 99_999] = 20
    one = logits.sketch(x, TARGETS, 2, np.full((N_SCORED, 2), 0.999999))
    write_baseline(tmp_path / "wide.gkb", header, [one])
    got = Baseline.open(tmp_path / "wide.gkb").sketch(0, np.arange(1))
    assert got.top.ids.tolist() == [[99_999, 0]]
    assert got.draw_ids.tolist() == [[99_998, 99_998]]


def test_every_single_cut_is_noticed(path: Path) -> None:
    raw = path.read_bytes()
    for n in [*range(60), len(raw) // 2, len(raw) - 33, len(raw) - 32, len(raw) - 1]:
        path.write_bytes(raw[:n])
        with pytest.raises(InputError):
            Baseline.open(path)
    path.write_bytes(raw + b"\0")
    with pytest.raises(InputError, match="damaged: its checksum is wrong"):
        Baseline.open(path)


@pytest.mark.parametrize("seed", range(40))
def test_every_flipped_bit_is_noticed(path: Path, seed: int) -> None:
    raw = bytearray(path.read_bytes())
    at = int(np.random.default_rng(seed).integers(len(raw)))
    raw[at] ^= 1 << seed % 8
    path.write_bytes(raw)
    with pytest.raises(InputError):
        Baseline.open(path)


def forged(fields: object, records: bytes) -> bytes:
    """A file whose checksum is right and whose content is not."""
    packed = zlib.compress(json.dumps(fields).encode())
    body = struct.pack("<8sI", MAGIC, len(packed)) + packed + records
    return body + sha256(body).digest()


FIELDS = dataclasses.asdict(HEADER)
NONE = b"\0" * (N_CHUNK * N_SCORED * HEADER.record.itemsize)


@pytest.mark.parametrize(
    ("fields", "records", "wanted"),
    [
        ([], NONE, "the header has fields"),
        (FIELDS | {"n_chunk": -1}, NONE, "n_chunk is -1"),
        (FIELDS | {"n_chunk": 1 << 40}, NONE, "n_chunk is 1099511627776"),
        (FIELDS | {"n_chunk": 2}, NONE, "bytes of records, 2 chunks take"),
        (FIELDS | {"n_vocab": True}, NONE, "n_vocab is True"),
        (FIELDS | {"k": 5000}, NONE, "entries of a vocabulary of 1000"),
        (FIELDS | {"n_scored": 60}, NONE, "60 positions of a chunk of 64"),
        (FIELDS | {"model": "tiny"}, NONE, "model is str, wanted an object"),
        (FIELDS | {"n_vocab": 30}, b"\xff\x7f" * (len(NONE) // 2), "token 32767 in a vocabulary of 30"),
        (FIELDS, b"\xff" * 4 + b"\0" * (len(NONE) - 4), "a likelihood is not finite"),
        ({"a": 1}, NONE, "the header has fields"),
    ],
)
def test_forged_files_are_refused(fields: object, records: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.gkb"
    path.write_bytes(forged(fields, records))
    with pytest.raises(InputError, match=wanted):
        Baseline.open(path)


def test_a_header_that_inflates_without_end_is_cut_off(tmp_path: Path) -> None:
    packed = zlib.compress(b'{"a": "' + b"x" * (80 << 20) + b'"}')
    body = struct.pack("<8sI", MAGIC, len(packed)) + packed
    (tmp_path / "bomb.gkb").write_bytes(body + sha256(body).digest())
    with pytest.raises(InputError, match="the header cannot be read"):
        Baseline.open(tmp_path / "bomb.gkb")


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(InputError, match="is a GGUF file"):
        Baseline.open(tmp_path / "model.gguf")
    with pytest.raises(InputError, match="is not a baseline file. Make one with `ggufkit baseline`"):
        Baseline.open(tmp_path / "x")
    assert not is_baseline(tmp_path / "x")
    assert not is_baseline(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    assert not is_baseline(tmp_path / "pipe")


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def breaks():
        yield sketches()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_baseline(tmp_path / "base.gkb", HEADER, breaks())
    with pytest.raises(OutputError, match="cannot be written"):
        write_baseline(tmp_path / "no" / "base.gkb", HEADER, sketches())
    assert list(tmp_path.iterdir()) == []
