"""What a family adds to its tokenizer: order of the entries, Code Llama's infill tokens.

Knows families and vocabulary sizes. The vocabulary itself is made by `ggufkit.tokenizer`.
"""

from collections.abc import Iterable
from pathlib import Path

from gguf import MODEL_ARCH, GGUFValueType, Keys

from ggufkit.architectures.config import Config
from ggufkit.architectures.family import Family
from ggufkit.formats.checkpoint import read_optional
from ggufkit.formats.model import KV
from ggufkit.tokenizer import load_vocabulary

CODE_LLAMA_VOCAB = 32016
# ▁<PRE>, ▁<SUF>, ▁<MID>, ▁<EOT>. The converter means to write these too, but its names have no writer any more: it
# stores the last alone. llama.cpp would find the others by their text.
CODE_LLAMA_INFILL = {
    Keys.Tokenizer.FIM_PRE_ID: 32007,
    Keys.Tokenizer.FIM_SUF_ID: 32008,
    Keys.Tokenizer.FIM_MID_ID: 32009,
    Keys.Tokenizer.EOT_ID: 32010,
}
GRANITE_VOCAB = 49152
# converter classes that inherit LlamaModel.set_vocab
LLAMA_KIN = (
    MODEL_ARCH.LLAMA, MODEL_ARCH.SMOLLM3, MODEL_ARCH.GRANITE, MODEL_ARCH.GRANITE_MOE, MODEL_ARCH.MISTRAL3,
)  # fmt: skip


def vocabulary_metadata(family: Family, config: Config, folder: Path | None = None) -> Iterable[KV]:
    """tokenizer.*, in the converter's order. Raises TokenizerError.

    folder  of the tokenizer's files, where that is not the checkpoint's own
    """
    folder = folder or config.folder
    n_vocab = config.integer("vocab_size")
    is_llama = family.arch in LLAMA_KIN
    declared = read_optional(folder, "tokenizer_config.json", notes=[])  # load_vocabulary says what is wrong
    if is_llama and isinstance(prefix := declared.get("add_prefix_space"), bool):
        yield KV(Keys.Tokenizer.ADD_PREFIX, GGUFValueType.BOOL, prefix)
    yield from load_vocabulary(
        folder, n_vocab, family.vocab, pre_alias=family.pre_alias, notes=config.notes, config_folder=config.folder
    )
    if is_llama and n_vocab == CODE_LLAMA_VOCAB:
        for key, number in CODE_LLAMA_INFILL.items():
            yield KV(key, GGUFValueType.UINT32, number)
    if is_llama and n_vocab == GRANITE_VOCAB:
        yield KV(Keys.Tokenizer.ADD_BOS, GGUFValueType.BOOL, False)
