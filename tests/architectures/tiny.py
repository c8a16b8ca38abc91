"""Tiny checkpoints of every family, made anew for each test from a case of tests/data/parity/cases.

A case holds config.json, the tokenizer's files and the names and shapes of the weights (all from Hugging Face), and
what llama.cpp's converter makes of them. The weights are words of SHAKE-256: the same everywhere and for ever.
"""

import base64
import copy
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "parity"
CASES = sorted(path.stem for path in (DATA / "cases").glob("*.json"))


def parity_make():
    """The script that writes those cases, as a module: scripts that make others use its functions."""
    spec = importlib.util.spec_from_file_location("parity_make", DATA / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_case(name):
    return json.loads((DATA / "cases" / f"{name}.json").read_text(encoding="utf-8"))


def build(name, folder):
    """Write the checkpoint of case `name` into `folder`/NAME, the name that the converter saw; returns that folder."""
    case = load_case(name)
    target = Path(folder) / name
    write_files(case, target)
    write_weights(case["source"], case["dtype"], target, n_shards=case["n_shards"])
    return target


def write_files(case, folder):
    """Everything but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", case["config"])
    for name, content in case["files"].items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if name == "tokenizer.json":
            write_json(path, with_vocabulary(content, case["vocabulary"]))
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            write_json(path, content)
    if case["vocabulary"] == "bpe.tiktoken":
        (folder / "tiktoken.model").write_text(tiktoken_ranks(), encoding="ascii")
    if case["vocabulary"].endswith(".model"):
        (folder / "tokenizer.model").write_bytes((DATA / case["vocabulary"]).read_bytes())


def tiktoken_ranks():
    """bpe.json as a file of ranks: the bytes of each token in base64, by number."""
    numbers = json.loads((DATA / "bpe.json").read_text(encoding="utf-8"))["vocab"]
    pieces = [bytes(_byte_of(letter) for letter in text) for text in sorted(numbers, key=numbers.get)]
    return "".join(f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces))


def _byte_of(letter):
    """GPT-2's alphabet: printable Latin-1 is itself, the other 68 bytes are U+0100 onwards in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return ord(letter) if ord(letter) < 256 else rest[ord(letter) - 256]


def with_vocabulary(tokenizer, vocabulary):
    """tokenizer.json with the shared vocabulary and merges put in; a .model names none."""
    out = copy.deepcopy(tokenizer)
    if vocabulary.endswith(".json"):
        shared = json.loads((DATA / vocabulary).read_text(encoding="utf-8"))
        out["model"] |= {"vocab": shared["vocab"], "merges": shared["merges"]}
        if out["model"].pop("merges_as_text", False):
            out["model"]["merges"] = [" ".join(pair) for pair in shared["merges"]]
    return out


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def weights(name, shape):
    """float32 values of tensor `name`: norms near 1, biases small, matrices of rows of about unit length."""
    count = int(np.prod(shape))
    words = np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * count), dtype="<i2").astype(np.float32) / 32768
    values = words.reshape(shape)
    if len(shape) > 1:
        return values * np.float32(1.7 / np.sqrt(shape[-1]))
    return 1 + values / 4 if name.endswith("norm.weight") else values / 8


def encode(values, dtype):
    """Bytes of `values`. BF16 cuts float32 in half: these weights are BF16 numbers from the start."""
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def tensor_of(name, shape, dtype):
    """(dtype, shape, bytes) of tensor `name` in a checkpoint of `dtype`, with FP8 or MXFP4 where its name says so."""
    if name.endswith(("_blocks", "_scales")):  # MXFP4: codes, and exponents that keep the values near 1
        raw = hashlib.shake_256(name.encode()).digest(int(np.prod(shape)))
        near_one = bytes(118 + byte % 3 for byte in raw)
        return "U8", shape, raw if name.endswith("_blocks") else near_one
    if name.endswith("_scale_inv"):
        return "F32", shape, (1 / 256 + weights(name, shape) / 512).astype("<f4").tobytes()
    if dtype == "FP8" and name.endswith("proj.weight"):  # any byte but the two NaNs
        raw = bytes(byte - (byte & 127 == 127) for byte in hashlib.shake_256(name.encode()).digest(int(np.prod(shape))))
        return "F8_E4M3", shape, raw
    dtype = "BF16" if dtype == "FP8" else dtype
    return dtype, shape, encode(weights(name, shape), dtype)


def write_weights(source, dtype, folder, *, n_shards=1, change=None):
    """Safetensors shards of the named shapes; `change(tensors)` may edit name → (shape, bytes) before."""
    made = {name: tensor_of(name, shape, dtype) for name, shape in source.items()}
    dtypes = {name: kind for name, (kind, *_) in made.items()}
    tensors = {name: (shape, raw) for name, (_, shape, raw) in made.items()}
    if change is not None:
        change(tensors)
    names = sorted(tensors)
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", {name: tensors[name] for name in names}, dtype, dtypes)
        return
    weight_map = {}
    for i in range(n_shards):
        shard = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        mine = names[i::n_shards]  # dealt out in turn, so that the experts of a layer lie in several shards
        write_safetensors(folder / shard, {name: tensors[name] for name in mine}, dtype, dtypes)
        weight_map |= dict.fromkeys(mine, shard)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_safetensors(path, tensors, dtype, dtypes=None):
    """`dtypes` names those tensors that are not of `dtype`."""
    header, data, offset = {}, [], 0
    for name, (shape, raw) in tensors.items():
        kind = (dtypes or {}).get(name, dtype)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + len(raw)]}
        data.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
