"""Every family against llama.cpp's own converter (0c1e57098): entries, their order, and the bytes of every tensor.

DIFFERENCES is the whole list of what we store otherwise, with the reason.
"""

from dataclasses import fields

import pytest

from ggufkit.architectures import FAMILIES, convert, find_family
from ggufkit.formats.checkpoint import Checkpoint
from ggufkit.formats.packed import PackedRef
from ggufkit.formats.tensor import TensorRef
from tests.architectures import tiny
from tests.architectures.emit import OUTTYPES, metadata_facts, tensor_facts

# case → key → reason; a key that neither side lacks may differ in value
DIFFERENCES = {
    "code-llama-7b-hf": {
        "tokenizer.ggml.fim_pre_token_id": "the converter sets it under a name that has no writer, and drops it",
        "tokenizer.ggml.fim_suf_token_id": "the same",
        "tokenizer.ggml.fim_mid_token_id": "the same",
    },
    "tinyllama-1.1b": {
        "tokenizer.ggml.scores": "the converter stores -1000 for every token, which cuts text wrongly; ours are ranks",
    },
    "gemma-3-4b-it": {
        "gemma3.attention.sliding_window_pattern": "not every sixth of its layers sees all: llama.cpp reads "
        "the entry, the converter does not write it",
    },
    "glm-4.7-flash": {
        "deepseek2.expert_gating_func": "without it llama.cpp tells a sigmoid by the sizes of the model",
    },
    "mistral-small-4-119b": {
        "mistral4.attention.temperature_scale": "the converter drops it; transformers scales the queries by it",
        "mistral4.attention.temperature_length": "the same",
    },
}
# case → tensor → reason
OTHER_VALUES = {
    "exaone-4.0-1.2b": {"rope_freqs.weight": "torch's pow is a unit in the last place off; ours is rounded correctly"},
    "qwen3.5-4b": {"blk.0.ssm_a": "torch's exp is a unit in the last place off; ours is rounded correctly"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Case → converted model, each made once."""
    root = tmp_path_factory.mktemp("checkpoints")
    made = {}

    def get(name):
        if name not in made:
            made[name] = convert(Checkpoint.open(tiny.build(name, root)))
        return made[name]

    return get


@pytest.mark.parametrize("name", tiny.CASES)
def test_metadata_is_the_converters(name, models):
    ours, reference = metadata_facts(models(name), "f32"), tiny.load_case(name)["gguf"]["f32"]["kv"]
    differing = {key for key in ours.keys() | reference.keys() if ours.get(key) != reference.get(key)}
    assert differing == set(DIFFERENCES.get(name, {}))
    assert ordered(ours, reference) == ordered(reference, ours)


def ordered(entries, others):
    """Keys that both have, but for single tokens: where the converter gives them roles late, they stand elsewhere."""
    return [key for key in entries if key in others and not key.endswith("_token_id")]


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("name", tiny.CASES)
def test_tensors_are_the_converters(name, outtype, models):
    reference = tiny.load_case(name)["gguf"][outtype]["tensors"]
    ours = {key: list(facts.values()) for key, facts in tensor_facts(models(name), outtype).items()}
    assert {key for key in ours | reference if ours.get(key) != reference.get(key)} == set(OTHER_VALUES.get(name, {}))
    if not any(tensor.keep_stored for tensor in models(name).tensors):  # the converter writes those before all others
        assert list(ours) == list(reference)


def stored_names(part):
    """The tensors of the checkpoint that a part is read from."""
    if not isinstance(part, PackedRef):
        return [part.name]
    pieces = (getattr(part.packed, each.name) for each in fields(part.packed))
    return [piece.name for piece in pieces if isinstance(piece, TensorRef)]


def test_every_family_has_a_case(tmp_path):
    covered = {tiny.load_case(name)["config"]["architectures"][0] for name in tiny.CASES}
    assert all(covered & set(family.classes) for family in FAMILIES)


@pytest.mark.parametrize("name", tiny.CASES)
def test_family_accounts_for_every_tensor(name, models, tmp_path):
    """All source tensors used, all required GGUF tensors made, nothing more than the family knows."""
    model, case = models(name), tiny.load_case(name)
    used = {name for tensor in model.tensors for part in tensor.parts for name in stored_names(part)}
    computed = {tensor.name for tensor in model.tensors if tensor.name.startswith("rope_f")}
    assert used - computed == set(case["source"]) - set(model.dropped)


def test_a_known_class_finds_its_family(tmp_path):
    for name in tiny.CASES:
        checkpoint = Checkpoint.open(tiny.build(name, tmp_path))
        assert checkpoint.config["architectures"][0] in find_family(checkpoint).classes
