"""Makes adapters.npz: adapters that peft makes for the case `qwen3-8b`, and the weights that it merges.

Run by hand; it needs torch, transformers and peft:

    refvenv/bin/python tests/data/lora/make.py
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "architectures"))
import tiny  # noqa: E402

STEP = 13  # rows of a merged weight that are kept: one of so many
CASE = "qwen3-8b"
ATTENTION = ["q_proj", "v_proj"]
ADAPTERS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION},
    "rank-stabilized": {"r": 4, "lora_alpha": 8, "target_modules": ["down_proj", "o_proj"], "use_rslora": True},
    "dora": {"r": 2, "lora_alpha": 4, "target_modules": ATTENTION, "use_dora": True},
    "patterns": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "rank_pattern": {"v_proj": 2},
                 "alpha_pattern": {"v_proj": 3, "layers.1.self_attn.q_proj": 5}},
    "tokens": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "trainable_token_indices": [641, 0, 13, 26]},
    "tokens of embeddings by name": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj"],
                                     "trainable_token_indices": {"embed_tokens": [39, 650]}},
    "embeddings and a head saved whole": {"r": 2, "lora_alpha": 8, "target_modules": ["embed_tokens"],
                                          "modules_to_save": ["lm_head"]},
}  # fmt: skip


def main():
    arrays, facts = {}, {}
    for name, how in ADAPTERS.items():
        torch.manual_seed(3)
        with tempfile.TemporaryDirectory() as scratch:
            folder = tiny.build(CASE, scratch)
            base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            before = {key: value.clone() for key, value in base.state_dict().items()}
            model = get_peft_model(base, LoraConfig(**how))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) / 10)
            model.save_pretrained(f"{scratch}/adapter")
            config = json.loads(Path(f"{scratch}/adapter/adapter_config.json").read_text())
            tensors = load_file(f"{scratch}/adapter/adapter_model.safetensors")
            after = model.merge_and_unload().state_dict()
        changed = [key for key in before if not torch.equal(before[key], after[key])]
        facts[name] = {
            "config": config,
            "tensors": {key: list(value.shape) for key, value in tensors.items()},
            "changed": changed,
        }
        arrays |= {f"{name}/adapter/{key}": value.float().numpy() for key, value in tensors.items()}
        arrays |= {f"{name}/merged/{key}": after[key][::STEP].numpy() for key in changed}
    np.savez_compressed(HERE / "adapters.npz", facts=np.array(json.dumps(facts)), **arrays)


if __name__ == "__main__":
    main()
