"""Renders the templates of cases.json as transformers does and writes what came out beside them.

Run it with transformers and jinja2 installed, no torch: python tests/data/templates/make.py
"""

import json
from pathlib import Path

import transformers
from transformers.utils.chat_template_utils import render_jinja_template

PLACE = Path(__file__).with_name("cases.json")


def main() -> None:
    document = json.loads(PLACE.read_text())
    document["made_with"] = f"transformers {transformers.__version__}"
    for case in document["cases"].values():
        # as apply_chat_template calls it for a tokenizer with these named tokens
        try:
            rendered, _ = render_jinja_template(
                conversations=[case["messages"]], chat_template=case["template"],
                add_generation_prompt=case["add_generation_prompt"], **case["tokens"],
            )  # fmt: skip
            case["rendered"] = rendered[0]
        except Exception as error:
            case["raised"] = str(error)
    PLACE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
