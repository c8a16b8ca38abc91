"""Opening, decoding, interrupting and closing."""

import dataclasses
import os
import shutil
import signal
import threading
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

from ggufkit.errors import EngineError, GgufError, UsageError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.gguf_source import open_model, read_hparams
from ggufkit.formats.gguf_writer import header_bytes
from ggufkit.runtime import loading, machine, memory
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.loading import Device
from ggufkit.runtime.vocabulary import open_vocabulary


def test_a_broken_file_never_reaches_llama_cpp(tmp_path, stories):
    for name, content in (("empty", b""), ("cut", stories.read_bytes()[:-100]), ("text", b"hello " * 100)):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(GgufError, match=name):
            Engine.open(path)
    with pytest.raises(GgufError, match="No such file"):
        Engine.open(tmp_path / "absent.gguf")


def test_what_llama_cpp_says_stands_in_the_error(tmp_path):
    path = tmp_path / "strange.gguf"
    writer = gguf.GGUFWriter(path, "no_such_arch")
    writer.add_tensor("x", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EngineError, match=r"strange\.gguf: llama\.cpp does not load.*unknown model architecture"):
        Engine.open(path, n_ctx=64)


@pytest.mark.parametrize(
    "options", [{"n_ctx": 0}, {"threads": 0}, {"n_batch": -1}, {"n_seq": 1000}, {"n_ctx": 1 << 30}]
)
def test_options_out_of_range_are_named(stories, options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} is .* must be between 1 and"):
        Engine.open(stories, **options)


def test_metal_is_refused_where_it_was_not_built(stories):
    with Engine.open(stories, n_ctx=64, threads=1) as engine:
        has_gpu = engine.lib.llama_supports_gpu_offload()
    if has_gpu:
        pytest.skip("this llama.cpp was built with GPU support")
    with pytest.raises(EngineError, match="without Metal"):
        Engine.open(stories, n_ctx=64, device=Device.METAL)


def test_the_default_context_is_what_the_model_was_trained_with(stories):
    with Engine.open(stories, threads=1) as engine:
        assert engine.settings.n_ctx == 512
        assert engine.notices == ()


def test_a_context_that_does_not_fit_is_shortened_and_said(tiny_bf16, monkeypatch):
    header = GgufFile.open(tiny_bf16)
    needed = memory.run_nbytes(sum(t.nbytes for t in header.tensors), read_hparams(header), 512)
    monkeypatch.setattr(machine, "memory", lambda: machine.MachineMemory(1 << 30, int(needed / memory.SPARE) + 1))
    with Engine.open(tiny_bf16, threads=1) as engine:
        assert engine.settings.n_ctx == 512
        assert "context of 512 tokens: the trained 2048 do not fit 0.1 GiB" in engine.notices[0]
    monkeypatch.setattr(machine, "memory", lambda: machine.MachineMemory(1 << 30, 1 << 20))
    assert "read from disk again" in loading.default_ctx(engine.header, 1)[1]


def test_a_text_in_pieces_gives_the_logits_of_the_whole(engine):
    ids = engine.tokenize("The cat sat on the mat and looked at the moon.")
    engine.clear()
    engine.decode(ids, 0, logits=np.arange(len(ids)) == len(ids) - 1)
    whole = engine.logits(1)[0].copy()
    engine.clear()
    engine.decode(ids[:7], 0)
    engine.decode(ids[7:-1], 7)
    engine.decode_one(int(ids[-1]))
    assert np.abs(engine.logits(1)[0] - whole).max() < 2e-2
    assert engine.logits(1)[0].argmax() == whole.argmax()


def test_sequences_of_one_batch_do_not_see_each_other(stories):
    with Engine.open(stories, n_ctx=256, n_seq=2, n_outputs=2, threads=1) as engine:
        a, b = engine.tokenize("Tom had a red"), engine.tokenize("One day, a big")
        mask = np.zeros(len(a) + len(b), dtype=bool)
        mask[[len(a) - 1, -1]] = True
        pos = np.concatenate((np.arange(len(a)), np.arange(len(b)))).astype(np.int32)
        engine.decode(np.concatenate((a, b)), pos, seq=np.repeat([0, 1], [len(a), len(b)]), logits=mask)
        together = engine.logits(2).copy()
        engine.clear()
        engine.decode(b, 0, seq=1, logits=np.arange(len(b)) == len(b) - 1)
        assert np.abs(engine.logits(1)[0] - together[1]).max() < 2e-2


def test_too_many_tokens_are_refused(engine):
    with pytest.raises(UsageError, match=r"1 to 256 tokens \(n_batch\), got 257"):
        engine.decode(np.ones(257, dtype=np.int32), 0)


def test_a_full_context_is_an_error_not_a_shift(stories):
    with Engine.open(stories, n_ctx=256, threads=1) as engine:
        engine.decode(np.ones(256, dtype=np.int32), 0)
        with pytest.raises(EngineError, match=r"no room for 1 more tokens in a context of 256 .* larger --ctx"):
            engine.decode_one(1)


def test_ctrl_c_ends_a_long_decode_and_the_engine_goes_on(tiny_bf16):
    with Engine.open(tiny_bf16, n_ctx=8192, n_batch=8192, threads=1) as engine:
        ids = np.arange(8192, dtype=np.int32) % 1000
        before = signal.getsignal(signal.SIGINT)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            engine.decode(ids, 0)
        timer.join()
        assert signal.getsignal(signal.SIGINT) is before
        engine.decode(ids[:8], 0, logits=np.arange(8) == 7)
        assert np.isfinite(engine.logits(1)).all()


def test_a_closed_engine_is_an_error_and_no_crash(stories):
    with Engine.open(stories, n_ctx=256, threads=1) as engine:
        ids = engine.tokenize("Tom had")
        engine.decode(ids, 0)
        text = engine.vocab.detokenize(ids)
    engine.close()
    calls = [
        lambda: engine.tokenize("Tom had"),
        lambda: engine.decode(ids, 0),
        lambda: engine.decode_one(1),
        lambda: engine.logits(1),
        engine.clear,
        lambda: engine.vocab.piece(200),
        lambda: engine.vocab.eog,
        lambda: engine.vocab.control_texts,
    ]
    for call in calls:
        with pytest.raises(EngineError, match="is closed. Use it inside its `with` block"):
            call()
    assert engine.vocab.detokenize(ids) == text


def test_another_thread_can_cancel(tiny_bf16):
    with Engine.open(tiny_bf16, n_ctx=8192, n_batch=8192, threads=1) as engine:
        timer = threading.Timer(0.1, engine.abort)
        timer.start()
        with pytest.raises(EngineError, match="8192 tokens was cancelled"):
            engine.decode(np.arange(8192, dtype=np.int32) % 1000, 0)
        timer.join()


def test_closing_twice_is_safe_and_progress_is_told(stories):
    seen: list[float] = []
    engine = Engine.open(stories, n_ctx=64, threads=1, on_load=seen.append)
    engine.close()
    engine.close()
    assert seen[-1] == 1.0


def test_a_path_with_spaces_and_accents_opens(stories, tmp_path):
    path = tmp_path / "ein schönes Modell.gguf"
    shutil.copy(stories, path)
    with Engine.open(path, n_ctx=64, threads=1) as engine:
        assert engine.path == path


def test_rows_of_embeddings_go_in_where_tokens_would(stories):
    with Engine.open(stories, n_ctx=64, n_outputs=8, threads=1, device=Device.CPU) as engine:
        tokens = engine.tokenize("Once upon a time there was a little girl")[:8]
        engine.decode(tokens, 0, logits=1)
        wanted = engine.logits(8).copy()
        table = next(t for t in open_model(stories).tensors if t.name == "token_embd.weight")
        rows = np.concatenate([table.rows(0, int(token), int(token) + 1) for token in tokens])
        engine.clear()
        engine.decode(rows, 0, logits=1)
        assert np.array_equal(engine.logits(8), wanted)
        engine.clear()
        engine.decode(tokens, 0, logits=1)
        assert np.array_equal(engine.logits(8), wanted)


def test_a_vocabulary_needs_no_weights(stories, tmp_path):
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(header_bytes(open_model(stories).metadata, [], 32))
    with open_vocabulary(path) as vocab, Engine.open(stories, n_ctx=64, threads=1) as engine:
        assert np.array_equal(vocab.tokenize("Once upon a time"), engine.tokenize("Once upon a time"))
        assert (vocab.bos, vocab.add_bos, vocab.n_vocab) == (engine.vocab.bos, engine.vocab.add_bos, 512)
    with pytest.raises(EngineError, match=r"stories\.gguf|no\.gguf: llama\.cpp does not load this vocabulary"):
        (tmp_path / "no.gguf").write_bytes(b"GGUF")
        with open_vocabulary(tmp_path / "no.gguf"):
            pass


def test_a_declared_length_takes_no_more_than_a_share_of_the_memory(engine, monkeypatch):
    header = SimpleNamespace(path=engine.path, tensors=engine.header.tensors)
    for n_train, free in ((2**31 - 1, 24 << 30), (2**31 - 1, 1 << 30), (1 << 17, 1 << 30), (2048, 24 << 30)):
        hparams = dataclasses.replace(read_hparams(engine.header), n_ctx_train=n_train)
        monkeypatch.setattr(loading, "read_hparams", lambda _, found=hparams: found)
        monkeypatch.setattr(machine, "memory", lambda free=free: machine.MachineMemory(2 * free, free))
        n_ctx, said = loading.default_ctx(header, 1)
        weights = sum(tensor.nbytes for tensor in header.tensors)
        taken = memory.run_nbytes(weights, hparams, n_ctx) - memory.run_nbytes(weights, hparams, 256)
        assert taken <= free / 8
        assert n_ctx <= 1 << 17
        assert n_ctx >= min(n_train, 4096)
        assert bool(said) is (n_ctx < n_train)
        assert not said or f"context of {n_ctx} tokens" in said
