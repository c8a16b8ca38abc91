"""Makes converted.json: what llama.cpp's convert_lora_to_gguf.py makes of adapters, those of `make.py` and others.

Run by hand; it needs torch, transformers and llama.cpp's source:

    refvenv/bin/python tests/data/lora/convert.py PATH/TO/llama.cpp
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / name) for name in ("architectures", "data/parity")]
import tiny  # noqa: E402

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "base_model_name_or_path": "some/model", "target_modules": ["x"]}
RANK = 4


def made(name, pattern, **config):
    """An adapter for every matrix of case `name` whose name fits: config and tensors, F32."""
    shapes = tiny.load_case(name)["source"]
    tensors = {}
    for key, shape in shapes.items():
        if re.search(pattern, key) and len(shape) == 2:
            module = f"base_model.model.{key.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = [RANK, shape[1]]
            tensors[f"{module}.lora_B.weight"] = [shape[0], RANK]
    return PLAIN | config, {key: tiny.weights(key, shape) for key, shape in tensors.items()}


def of_peft(name):
    """One of adapters.npz."""
    data = np.load(HERE / "adapters.npz")
    facts = json.loads(str(data["facts"]))[name]
    return facts["config"], {key: data[f"{name}/adapter/{key}"] for key in facts["tensors"]}


def experts(name, old):
    """One adapter an expert, as adapters of transformers 4 have them."""
    case = tiny.load_case(name)
    config, tensors = PLAIN, {}
    n_embd, n_ff = case["config"]["hidden_size"], case["config"].get("moe_intermediate_size", 96)
    for layer in range(case["config"]["num_hidden_layers"]):
        for expert in range(4):
            for part, (n_rows, n_per_row) in old.items():
                sizes = {"n_embd": n_embd, "n_ff": n_ff}
                module = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{part}"
                tensors[f"{module}.lora_A.weight"] = [RANK, sizes[n_per_row]]
                tensors[f"{module}.lora_B.weight"] = [sizes[n_rows], RANK]
    return config, {key: tiny.weights(key, shape) for key, shape in tensors.items()}


GATED = {"gate_proj": ("n_ff", "n_embd"), "up_proj": ("n_ff", "n_embd"), "down_proj": ("n_embd", "n_ff")}
# name → (case of the base, adapter)
CASES = {
    "qwen3, of peft": ("qwen3-8b", lambda: of_peft("plain")),
    "llama": ("llama-2-70b-chat-hf", lambda: made("llama-2-70b-chat-hf", r"(q|k|v|o|gate|up|down)_proj")),
    "phi3": ("phi-3-mini-128k-instruct", lambda: made("phi-3-mini-128k-instruct", "(qkv|gate_up)_proj")),
    "gemma 3": ("gemma-3-4b-it", lambda: made("gemma-3-4b-it", r"language_model.*(q|down)_proj")),
    "qwen3-moe, experts": ("qwen3-30b-a3b", lambda: experts("qwen3-30b-a3b", GATED)),
    "qwen3.5": (
        "qwen3.5-4b",
        lambda: made("qwen3.5-4b", r"language_model\.layers\.0\..*(in_proj_qkv|in_proj_z|mlp.up_proj)"),
    ),
    "a head of its own": ("qwen3-8b", lambda: made("qwen3-8b", "lm_head")),
}


def write(name, root):
    """(folder of the base, folder of the adapter)."""
    case, make = CASES[name]
    base = tiny.build(case, root)
    return base, write_adapter(root / "my-adapter", *make())


def write_adapter(folder, config, tensors):
    folder.mkdir(parents=True)
    tiny.write_json(folder / "adapter_config.json", config)
    stored = {key: (value.shape, value.astype("<f4").tobytes()) for key, value in tensors.items()}
    tiny.write_safetensors(folder / "adapter_model.safetensors", stored, "F32")
    return folder


def main():
    parity = tiny.parity_make()
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    out = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            base, adapter = write(name, Path(scratch))
            path = Path(scratch) / "out.gguf"
            program = [sys.executable, f"{sys.argv[1]}/convert_lora_to_gguf.py", str(adapter), "--base", str(base)]
            done = subprocess.run(
                [*program, "--outfile", str(path), "--outtype", "f32"], capture_output=True, text=True
            )
            print(name, done.returncode, done.stderr[-600:] if done.returncode else "")
            if path.exists() and not done.returncode:
                out[name] = parity.read_facts(path)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in out.items())
    (HERE / "converted.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
