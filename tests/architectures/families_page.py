"""Writes docs/families.md and the table of README.md from the table of families and its cases.

python -m tests.architectures.families_page
"""

import json
from pathlib import Path

import numpy as np

from ggufkit.architectures import FAMILIES
from tests.architectures import tiny
from tests.architectures.test_reference import DIFFERENCES, OTHER_VALUES

README = Path(__file__).parents[2] / "README.md"
README_HEAD = "| family | classes in config.json | architecture in GGUF |\n|---|---|---|\n"
PAGE = Path(__file__).parents[2] / "docs" / "families.md"
HEAD = """# Families

What `ggufkit` converts from a Hugging Face folder, and what each entry has been held against. This page is written by
`python -m tests.architectures.families_page`; a test keeps it current.

For every family there is at least one small checkpoint with random weights and a real tokenizer of its kind:

* **tensors**: metadata, and the SHA-256 of every tensor at F32, F16 and BF16, are those of llama.cpp's own converter
  (0c1e57098);
* **logits**: llama.cpp on our F32 file and Hugging Face's float32 model agree to 2e-3 with the same likeliest tokens;
* **token ids**: llama.cpp with our vocabulary and the original tokenizer cut the same texts alike.

Of a model that sees or hears, the language model is converted. A block that guesses further tokens is kept
(`--mtp drop` leaves it out) where llama.cpp runs it.

| Family | `architectures` in config.json | GGUF | Checked as |
|---|---|---|---|
"""
SOURCES = """
## Folders in another form

| Form | Checked against |
|---|---|
| `vocab.json` and `merges.txt` alone: Qwen 2 to 3.5, GPT-2, CodeGen, GPT-NeoX | llama.cpp's converter; transformers |
| `tekken.json` alone, `tokenizer.model.v3` and the like | llama.cpp's converter; mistral-common |
| `consolidated.safetensors` or its shards, `params.json` (dense or with experts, also FP8) | llama.cpp's converter |

## Weights that are quantized already

They are decoded slab by slab; MXFP4 is taken over bit for bit (`--allow-requantize` decodes it too). A line of the
report says so, because the result carries that loss and its own.

| Format | Checked against |
|---|---|
| FP8 (E4M3, E5M2) in blocks, by row, whole: DeepSeek, compressed-tensors, ModelOpt | llama.cpp's converter; torch |
| MXFP4 as gpt-oss is published; compressed-tensors' spelling | llama.cpp's converter; Hugging Face's logits |
| MXFP8 | compressed-tensors |
| NVFP4 of compressed-tensors and ModelOpt | compressed-tensors; ModelOpt |
| packed integers of 2 to 8 bits, by group or by row, with and without zeros | compressed-tensors |
| INT8 by row or by group | compressed-tensors |
| GPTQ of 2, 3, 4 and 8 bits, both formats, with `g_idx` | AutoGPTQ; llama.cpp's converter |
| AWQ (gemm) | AutoAWQ |
| bitsandbytes NF4 and FP4, nested or not; LLM.int8 | bitsandbytes |

## Adapters of peft

| What becomes of them | Checked against |
|---|---|
| added to the weights (`quantize --lora`): also DoRA, layers saved whole, resized embeddings | peft |
| a GGUF of their own (`convert-lora`, `run --lora`): LoRA, rsLoRA, patterns, experts | llama.cpp's converter; logits |

## Where llama.cpp computes something else than transformers

A note of the conversion says so.

* gpt-oss: `rope_scaling.truncate` is false: llama.cpp rounds the limits of YaRN whatever it says, which moves the
  frequencies between them a little.
* a sliding window in a family whose graph has none: texts longer than the window are read to their beginning.
* a dynamic RoPE scaling: nothing is scaled beyond the context of the training.
* experts chosen by groups (`topk_method: group_limited_greedy`): groups are ranked by their best two experts.
* Gemma 3n (no note: it is below rounding at real widths): the deviation that decides which activations are zero is
  divided by n - 1, not n.

## Where we store something else than llama.cpp's converter

"""


def page():
    """The text of docs/families.md."""
    cases = {name: tiny.load_case(name) for name in tiny.CASES}
    computed = {name.partition("/")[0] for name in np.load(tiny.DATA / "logits.npz").files}
    rows = []
    for family in FAMILIES:
        mine = [name for name, case in cases.items() if case["config"]["architectures"][0] in family.classes]
        shown = ", ".join(name if name in computed else f"{name} (tensors alone)" for name in mine)
        rows.append(f"| {family.title} | {classes_of(family)} | `{family.arch_name}` | {shown} |")
    differences = [
        f"* {name}: `{key}`: {reason}."
        for table in (DIFFERENCES, OTHER_VALUES)
        for name, reasons in table.items()
        for key, reason in reasons.items()
    ]
    return HEAD + "\n".join(rows) + "\n" + SOURCES + "\n".join(differences) + "\n"


def readme(text):
    """README.md's `text` with the rows of its table of families written anew."""
    before, _, rest = text.partition(README_HEAD)
    rows = "".join(f"| {family.title} | {classes_of(family)} | `{family.arch_name}` |\n" for family in FAMILIES)
    return before + README_HEAD + rows + "\n" + rest.partition("\n\n")[2]


def classes_of(family):
    return ", ".join(f"`{name}`" for name in family.classes)


if __name__ == "__main__":
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(json.dumps({"families": len(FAMILIES), "cases": len(tiny.CASES)}))
