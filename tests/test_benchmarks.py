"""Benchmarks say in one line what is wrong with their arguments, before anything is fetched, built or run."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def arguments():
    sys.path.insert(0, str(FOLDER))
    import arguments

    return arguments


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("evidence.py --tokens 512,x", "argument --tokens: got 'x', wanted a whole number of at least 0"),
        ("fidelity.py nowhere", "argument MODEL: nowhere is no file and no folder, nor one of smollm2, qwen2.5-coder,"),
        ("real.py smol", "argument MODEL: unknown model 'smol'. Known: smollm2, qwen2.5-coder, smollm2-moe"),
    ],
)
def test_a_wrong_argument_is_one_line(words, wanted):
    script, *rest = words.split()
    command = [sys.executable, str(FOLDER / script), *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert wanted in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("count", "0"), ("count", "-1"), ("count", "1.5"), ("count", ""), ("count", "1-"), ("count_or_0", "-0"),
        ("positive", "nan"), ("positive", "0"), ("positive", "x"), ("nbytes", "much"), ("mixture", "Q9"),
        ("real_model", "/tmp"), ("any_model", "/dev/null"), ("file", "/tmp"),
    ],
)  # fmt: skip
def test_what_is_not_of_its_kind_is_refused(arguments, kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        getattr(arguments, kind)(text)


def test_lists_and_names_are_read(arguments, tmp_path):
    assert arguments.listed(arguments.count)("512,1024") == [512, 1024]
    assert arguments.mixture("q4_k_m") == "Q4_K_M"
    assert arguments.nbytes("2GiB") == 2 << 30
    with pytest.raises(argparse.ArgumentTypeError, match="is empty"):
        arguments.any_model(str(tmp_path))


def test_errors_of_ggufkit_end_in_a_line(arguments, capsys):
    from ggufkit.errors import InputError

    def main():
        raise InputError("the text is too short")

    with pytest.raises(SystemExit) as ended:
        arguments.run(main)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Error: the text is too short\n"


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.py")))
def test_no_benchmark_reads_numbers_by_itself(script):
    text = (FOLDER / script).read_text()
    assert "type=int" not in text
    assert "type=float" not in text
    assert "main()\n" not in text.partition("__main__")[2] or script in ("pages.py", "peer.py")
