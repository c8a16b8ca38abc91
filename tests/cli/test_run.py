"""`ggufkit run` as a person meets it: pipes, conversations on a terminal, what is kept and what is said."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggufkit.cli import answer, line_editor, piped, run_session
from ggufkit.cli.run_options import AnswerOptions
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import InputError
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.sampling import Sampling
from ggufkit.workflows.quantize import quantize
from tests.cli.terminal import Terminal

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
GREEDY = ("--temp", "0", "-t", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """stories260K with a chat template of its own."""
    folder = tmp_path_factory.mktemp("run") / "stories"
    shutil.copytree(ROOT / "models" / "stories260K", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    path = folder.with_name("stories.gguf")
    quantize(QuantizeSettings(source=folder, output=path, recipe="F16", threads=1))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """stories260K without a template."""
    path = tmp_path_factory.mktemp("run") / "base.gguf"
    quantize(QuantizeSettings(source=ROOT / "models" / "stories260K", output=path, recipe="F16", threads=1))
    return path


def run(*args: object, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ggufkit", "run", *map(str, args)]
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, **given)


def document(*args: object, stdin: bytes | None = None) -> dict:
    done = run(*args, *GREEDY, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_template_makes_a_chat_of_a_prompt_and_of_a_pipe(model, base):
    said = document(model, "-p", "Hi", "-n", "3")
    assert (said["mode"], said["prompt"]) == ("chat", "Hi")
    assert document(model, "-n", "3", stdin=b"Hi")["n_prompt"] == said["n_prompt"]
    raw = document(model, "--raw", "-p", "Hi", "-n", "3")
    assert (raw["mode"], raw["n_prompt"] < said["n_prompt"]) == ("raw", True)
    assert document(base, "-p", "Hi", "-n", "3")["mode"] == "raw"
    done = run(model, "-p", "Hi", "-n", "3", *GREEDY)
    assert done.stderr.startswith(b"chat \xc2\xb7 first token")


def test_a_base_model_ends_by_itself(base):
    said = document(base, "-p", "Once upon a time", "--ctx", "4096")
    assert said["n_generated"] <= 512
    assert said["finish_reason"] in ("stop", "length")


def test_reasons_are_the_field_s_words(model):
    assert document(model, "-p", "Hi", "-n", "2")["finish_reason"] == "length"
    said = document(model, "--raw", "-p", "Once upon a time", "-n", "60", "--stop", "the")
    assert (said["finish_reason"], said["stop_text"]) == ("stop", "the")


def test_a_pipe_is_put_behind_the_prompt(model):
    said = document(model, "-p", "Summarize:", "-n", "1", stdin=b"A dog ran.")
    assert said["prompt"] == "Summarize:\n\nA dog ran."
    assert document(model, "-p", "Summarize:", "-n", "1")["prompt"] == "Summarize:"  # nothing comes from /dev/null
    assert document(model, "-p", "Summarize:", "-n", "1", stdin=b"")["prompt"] == "Summarize:"


def test_a_raw_prompt_is_not_repeated_into_a_pipe(model):
    done = run(model, "--raw", "-p", "Once upon a time", "-n", "3", *GREEDY)
    assert b"Once upon" not in done.stdout


def test_special_tokens_are_read_where_that_is_asked_for(model):
    plain, special = (
        document(model, "--raw", *more, "-p", "<s>Hi</s>", "-n", "1")["n_prompt"] for more in ((), ("--special",))
    )
    assert special < plain
    assert special == document(model, "--raw", "-p", "Hi", "-n", "1")["n_prompt"] + 1  # </s>; one BOS, not two


@pytest.mark.parametrize(
    ("raw", "text", "told"),
    [
        (b"caf\xe9", "caf\ufffd", True),
        ("größe".encode("utf-16"), "größe", False),
        ("größe".encode("utf-16-be"), None, False),
        (b"\xfe\xff" + "größe".encode("utf-16-be"), "größe", False),
        ("größe".encode("utf-32"), "größe", False),
        (b"\xff\xfea\x00b", "a\ufffd", True),
        (b"\xef\xbb\xbfgr\xc3\xb6\xc3\x9fe\xff", "größe\ufffd", True),
        (b"a\0b", None, False),
        (b"", "", False),
    ],
)
def test_a_pipe_of_any_encoding_is_text_or_refused(raw, text, told, capsys):
    if text is None:
        with pytest.raises(InputError, match="is not text"):
            piped.as_text(raw)
    else:
        assert piped.as_text(raw) == text
        assert ("U+FFFD" in capsys.readouterr().err) is told


def test_a_pipe_that_is_not_utf_8_is_answered(model):
    done = run(model, "-n", "2", *GREEDY, stdin=b"-caf\xe9\n+cafe\n", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert b"replaced by U+FFFD" in done.stderr


def test_nothing_to_answer_is_an_error(model):
    done = run(model, stdin=b" \n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the prompt is empty" in done.stderr


def test_a_system_message_needs_a_chat(base, model):
    for args in ((base,), (model, "--raw")):
        done = run(*args, "--system", "Be kind", "-p", "Hi")
        assert done.returncode == 1
        assert b"a system message needs a chat" in done.stderr


def test_a_conversation_computes_what_is_new(model):
    with Terminal("run", model, *GREEDY, "-n", "12") as terminal:
        terminal.wait_for("> ")
        terminal.type("Once upon a time there was a dog.\r")
        assert " kept" not in terminal.wait_for("the length")
        terminal.type("What did the dog do?\r")
        assert " new + " in terminal.wait_for("the length")
        terminal.type("/bye\r")
        assert terminal.exit_code() == 0


def test_a_paste_of_several_lines_is_one_message(model):
    with Terminal("run", model, *GREEDY, "-n", "4") as terminal:
        terminal.wait_for("> ")
        terminal.type("\x1b[200~one\ntwo\nthree\x1b[201~")
        terminal.wait_for("three")
        terminal.type("\r")
        terminal.wait_for("the length")
        terminal.type('"""four\rfive"""\r')
        terminal.wait_for("the length")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0
        assert terminal.shown.count("first token") == 2


def test_commands_confirm_what_they_did(model):
    with Terminal("run", model, *GREEDY, "-n", "4") as terminal:
        for said, answered in (
            ("/stats", "numbers is hidden"),
            ("/stats", "numbers is shown"),
            ("/system Be kind.", "with that system message"),
            ("/system", "without a system message"),
            ("/clear", "starts again"),
            ("/regen", "no answer yet"),
            ("/nothing", "/nothing is not known"),
            ("/help", "Alt-Enter"),
            ("/usr/bin is a folder", "first token"),
        ):
            terminal.wait_for("> ")
            terminal.type(f"{said}\r")
            terminal.wait_for(answered)


def test_what_is_typed_ahead_is_the_next_message(model):
    with Terminal("run", model, *GREEDY, "--ctx", "2048", "-n", "300") as terminal:
        terminal.wait_for("> ")
        terminal.type("Once upon a time\r")
        terminal.wait_for("\n")
        terminal.wait_for(" ")
        terminal.type("ahead of you\r")
        assert "ahead of you" not in terminal.wait_for("first token")
        terminal.wait_for("> ahead of you")
        terminal.wait_for("first token")


@pytest.mark.parametrize("columns", [40, 80])
def test_the_line_of_numbers_is_broken_between_numbers(model, columns):
    with Terminal("run", model, *GREEDY, "--ctx", "256", "-n", "3", columns=columns) as terminal:
        terminal.wait_for("> ")
        terminal.type("Hi.\r")
        shown = terminal.wait_for("the length")
    lines = shown[shown.index("chat ·") :].split("\n")
    numbers = [number for line in lines for number in line.removesuffix(" ·").split(" · ")]
    assert len(lines) > 1 and max(map(len, lines)) <= columns
    words = ["chat", "first token ", "prompt ", "answer ", "peak ", "seed ", "the length"]
    assert len(numbers) == len(words) and all(map(str.startswith, numbers, words))


def test_an_interrupt_while_a_word_is_shown_loses_nothing(model, monkeypatch, capsys):
    put = answer.AnswerWriter._put

    def interrupted(writer, part):
        if part == " ":
            signal.raise_signal(signal.SIGINT)
        put(writer, part)

    monkeypatch.setattr(answer.AnswerWriter, "_put", interrupted)
    monkeypatch.setattr(answer.AnswerWriter, "write", lambda self, text: [self._put(part) for part in ("a", " ", "b")])
    options = AnswerOptions(prompt=None, chat=False, special=False, system=None, max_tokens=5, stop=())
    with Engine.open(model, n_ctx=64, threads=1) as engine:
        session = run_session.Session(engine, options, Sampling(temperature=0.0))
        with pytest.raises(KeyboardInterrupt):
            session.answer_once("Once upon")
    assert capsys.readouterr().out == "a b\n"


def test_the_handler_of_ctrl_c_is_set_once_an_answer(model, monkeypatch, capsys):
    entered = []
    real = run_session.postponed_sigint
    monkeypatch.setattr(run_session, "postponed_sigint", lambda act: (entered.append(act), real(act))[1])
    options = AnswerOptions(prompt=None, chat=False, special=False, system=None, max_tokens=20, stop=())
    before = signal.getsignal(signal.SIGINT)
    with Engine.open(model, n_ctx=64, threads=1) as engine:
        run_session.Session(engine, options, Sampling(temperature=0.0)).answer_once("Once upon")
    assert len(entered) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert "answer 20 tokens" in capsys.readouterr().err


def test_an_interrupted_question_is_not_part_of_the_next_one(model):
    alone = document(model, "-p", "Hi.", "-n", "2", "--ctx", "2048")["n_prompt"]
    with Terminal("run", model, *GREEDY, "--ctx", "16384", "-n", "2") as terminal:
        terminal.wait_for("> ")
        terminal.type("\x1b[200~" + "The dog ran to the park. " * 1000 + "\x1b[201~\r")
        terminal.wait_for("computing the prompt")
        terminal.type("\x03")
        assert " of 11,01" in terminal.wait_for("tokens of the prompt")
        terminal.type("Hi.\r")
        line = terminal.wait_for("the length")
        prompt = line.split("prompt ")[-1].split(" @")[0]
        assert sum(int(word) for word in prompt.split() if word.isdigit()) == alone


def test_a_full_context_offers_to_forget_the_oldest_turns(model):
    long = "The dog ran to the park. " * 6
    with Terminal("run", model, *GREEDY, "--ctx", "256", "-n", "4") as terminal:
        for _ in range(2):
            terminal.wait_for("> ")
            terminal.type(f"{long}\r")
            terminal.wait_for("first token")
        terminal.wait_for("> ")
        terminal.type(f"{long}\r")
        terminal.wait_for("Forget the oldest question and its answer? [Y/n]")
        terminal.type("n\r")
        terminal.wait_for("The question was not asked.")
        terminal.type(f"{long}\r")
        terminal.wait_for("[Y/n]")
        terminal.type("\r")
        terminal.wait_for("first token")


@pytest.mark.parametrize("term", ["dumb", "xterm", "vt100"])
def test_any_terminal_and_no_readline(model, tmp_path, term):
    (tmp_path / "readline.py").write_text("raise ImportError('readline')\n")
    with Terminal("run", model, *GREEDY, TERM=term, PYTHONPATH=str(tmp_path)) as terminal:
        terminal.wait_for("> ")
        terminal.type("/bye\n")
        assert terminal.exit_code() == 0


def test_words_are_not_cut_at_the_edge(model):
    with Terminal("run", model, "--raw", "-p", "Once upon a time", *GREEDY, "-n", "80", columns=30) as terminal:
        assert terminal.exit_code() == 0
    shown = "Once upon" + terminal.shown.split("Once upon")[1].split("raw ·")[0]
    lines = shown.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 30
    whole = document(model, "--raw", "-p", "Once upon a time", "-n", "80")
    assert shown.split() == (whole["prompt"] + whole["text"]).split()


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["one two", " three fo", "ur five"], "one two three four \nfive\n"),
        (["a\n\nb\tc"], "a\n\nb\tc\n"),
        (["x" * 50], "x" * 50 + "\n"),
        (["日本語" * 5], "日本語日本語日本語日\n本語日本語\n"),
        (["red \x1b[31mand\x07 \u202eback\x9b"], "red and back\n"),
    ],
)
def test_an_answer_on_a_terminal(pieces, shown, monkeypatch, capsys):
    monkeypatch.setattr(answer, "_columns", lambda: 20)
    writer = answer.AnswerWriter()
    writer._wraps = True
    for piece in pieces:
        writer.write(piece)
    writer.end()
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("text", "unfinished", "message"),
    [
        ("hi ", False, "hi"),
        ('"""hi', True, None),
        ('"""', True, None),
        ('"""a\nb"""', False, "a\nb"),
        ('""""""', False, ""),
    ],
)
def test_three_quotes(text, unfinished, message):
    assert line_editor.is_unfinished(text) is unfinished
    if message is not None:
        assert line_editor.without_quotes(text) == message
