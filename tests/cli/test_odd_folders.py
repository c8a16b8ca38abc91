"""Folders as people have them, through the command itself: a file is made, and what was left out is said."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli import main
from ggufkit.formats.gguf_reader import GgufFile

STORIES = Path(__file__).resolve().parents[2] / "models" / "stories260K"
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def edit(path, **changes):
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | changes))


def card(raw):
    return lambda folder: (folder / "README.md").write_bytes(raw)


def links(folder):
    """Every file a link to another folder's."""
    for path in list(folder.iterdir()):
        path.unlink()
        path.symlink_to(STORIES / path.name)


def hub_cache(folder):
    """The folder a link to a subfolder of a snapshot, whose files are links to blobs."""
    root = folder.parent / "models--org--m"
    (root / "blobs").mkdir(parents=True)
    sub = root / "snapshots" / "abc" / "sub"
    sub.mkdir(parents=True)
    for path in list(folder.iterdir()):
        path.rename(root / "blobs" / f"h{path.name.replace('.', '')}")
        (sub / path.name).symlink_to(f"../../../blobs/h{path.name.replace('.', '')}")
    folder.rmdir()
    folder.symlink_to(sub, target_is_directory=True)


def jinja(folder):
    edit(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def litter(folder):
    (folder / "model.safetensors").rename(folder / "merged.safetensors")
    (folder / "._merged.safetensors").write_bytes(b"\0\5\x16\7" + bytes(4000))


CASES = {
    "card that is no YAML": (card(b"---\nlicense: mit\ntags: [a, b\n---\nA model.\n"), "README.md"),
    "card in Latin-1": (card(b"---\nlicense: mit\nauthor: Jos\xe9\n---\n"), "README.md: not UTF-8 at byte 28"),
    "card with numbers": (card(b"---\nmodel_name: 7\nbase_model: 3\n---\n"), "model_name is 7, wanted words"),
    "settings of other kinds": (
        lambda f: edit(f / "generation_config.json", top_k=20.0, top_p="x"), "top_p is 'x', wanted a number"),
    "a template beside null": (jinja, ""),
    "links": (links, ""),
    "a subfolder of the hub's cache": (hub_cache, ""),
    "litter of macOS": (litter, ""),
    "no pad token": (lambda f: edit(f / "config.json", pad_token_id=-1), ""),
    "a tiktoken list": (lambda f: (f / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n"), "tokenizer.model"),
    "plain floats once quantized": (lambda f: edit(f / "config.json", quantization_config={"quant_method": "x"}), ""),
    "a key that nobody knows": (lambda f: edit(f / "config.json", my_scale=2), "not known and not used: my_scale"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "wanted"), CASES.values(), ids=CASES)
def test_an_odd_folder_is_quantized_with_a_note(change, wanted, tmp_path):
    folder, out = tmp_path / "m", tmp_path / "m.gguf"
    shutil.copytree(STORIES, folder)
    change(folder)
    result = CliRunner().invoke(main, ["quantize", str(folder), "-o", str(out), "--type", "F32", "--json"])
    assert result.exit_code == 0, result.output
    notes = json.loads(result.stdout)["notes"]
    assert any(wanted in note for note in notes) if wanted else not notes
    if change is jinja:
        assert GgufFile.open(out).value("tokenizer.chat_template") == TEMPLATE


def test_a_folder_that_cannot_be_used_ends_in_one_line(tmp_path):
    folder, out = tmp_path / "m", tmp_path / "m.gguf"
    shutil.copytree(STORIES, folder)
    for change, wanted in (
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_act": "silu", "head_dim": 1}, "head_dim is 1, wanted an even number"),
        ({"head_dim": None, "rope_scaling": {"rope_type": "longrope"}}, "long_factor is absent"),
    ):
        edit(folder / "config.json", **change)
        result = CliRunner().invoke(main, ["quantize", str(folder), "-o", str(out), "--type", "F32"])
        assert result.exit_code == 1 and wanted in result.stderr and "mistake of ggufkit" not in result.stderr
        assert not list(tmp_path.glob("m.gguf*"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_of_a_checkpoint_leads_to_its_folder(name):
    result = CliRunner().invoke(main, ["plan", str(STORIES / name)])
    assert result.exit_code == 1 and f"is one file of a checkpoint. Pass its folder: {STORIES}" in result.stderr
