"""Which family of the table a checkpoint belongs to, by the classes that its config.json names.

Knows heads and wrappers: models that predict something else than tokens, or that see and hear around a language model.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ggufkit.architectures.card import brief
from ggufkit.architectures.config import Config
from ggufkit.architectures.families import FAMILIES
from ggufkit.architectures.family import Family
from ggufkit.errors import CheckpointError
from ggufkit.formats.checkpoint import Checkpoint

HEADS = re.compile(r"For(CausalLM|ConditionalGeneration)$")
OTHER_HEADS = re.compile(
    r"(\w+?)(ForSequenceClassification|ForTokenClassification|ForQuestionAnswering|ForRewardModel|Model)"
)
# transformers' short names that are not the letters of the class
CLASS_OF = {"hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM"}


def find_family(checkpoint: Checkpoint) -> Family:
    """The table entry of the first known of config.json's `architectures`; of its model_type where there are none.

    Of a class that is not known but holds a language model (text_config), the language model's; of a model with
    another head, or none, the one that predicts tokens, where the embeddings make the logits. `checkpoint.notes` says
    so. Raises CheckpointError that lists the known classes.
    """
    config = checkpoint.config
    names = list(_names(config))
    for name in names:
        if (family := _of_class(name, config)) is not None:
            if name != names[0]:
                checkpoint.notes.append(f"config.json: architectures begins with {brief(names[0])}; read as {name}")
            return family
    for name in names:
        match = OTHER_HEADS.fullmatch(str(name))
        if match and (family := _of_class(f"{match[1]}ForCausalLM", config)) is not None:
            return _without_head(checkpoint, family, match)
    classes = sorted(each for family in FAMILIES for each in family.classes)
    raise CheckpointError(
        f"{checkpoint.path / checkpoint.config_name}: architecture {names[0]!r:.80} is not known. Known: "
        f"{', '.join(classes)}. Convert other models with llama.cpp's converter and quantize the GGUF file."
    )


def _names(config: Mapping[str, Any]) -> Iterator[Any]:
    """Classes in the order in which they are tried: at least one, which may be None."""
    text = config.get("text_config")
    for values in (config, text if isinstance(text, dict) else {}):
        declared = values.get("architectures") or _class_of(values.get("model_type"))
        if values is config or declared:
            yield from declared if isinstance(declared, list) else [declared]


def _of_class(name: Any, config: Mapping[str, Any]) -> Family | None:
    return next((each for each in FAMILIES if name in each.classes and each.when(_text_values(config))), None)


def _without_head(checkpoint: Checkpoint, family: Family, name: re.Match[str]) -> Family:
    """The family, where its embeddings make the logits."""
    config = Config(checkpoint.path, checkpoint.config, family.defaults, [])
    if config.get("tie_word_embeddings") is not True:
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: {name[0]:.80} predicts no tokens: its head is another one, or none. "
            f"Use the checkpoint of {name[1]}ForCausalLM that it was made from."
        )
    checkpoint.notes.append(
        f"config.json: {name[0]} is read as {name[1]}ForCausalLM: config.json ties the head "
        "that predicts tokens to the embeddings"
    )
    return family


def _text_values(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json with what it says of the language model in front."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _class_of(model_type: Any) -> str | None:
    """The known class of transformers' short name: qwen2_moe is Qwen2MoeForCausalLM's, gemma3_text is Gemma3's."""
    if str(model_type) in CLASS_OF:
        return CLASS_OF[str(model_type)]
    short = str(model_type).removesuffix("_text").replace("_", "")
    classes = (name for family in FAMILIES for name in family.classes)
    return next((name for name in classes if HEADS.sub("", name).replace("_", "").lower() == short), None)
