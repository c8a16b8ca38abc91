"""Errors a person can act on. A message says what, where, got against wanted, and what to do next.

GgufkitError
 ├── InputError            a file or folder that is not what it should be (exit 1)
 │    ├── CheckpointError    missing or cut-off shards, leftover or absent tensors, unknown architecture
 │    ├── TokenizerError     vocabulary missing or malformed
 │    ├── GgufError          a GGUF file that breaks the format
 │    ├── ImatrixError       an importance file that is malformed or of another model
 │    └── RecipeError        a recipe with unknown keys, types or rules that match nothing
 ├── OutputError           cannot write: no permission, no space, same file as the input (exit 1)
 ├── EngineError           llama.cpp would not load or run; carries its last log lines (exit 1)
 │    └── CutError           a model that cannot be run layer by layer; it can be run as a whole
 ├── ClusterError          no scheduler, no workers, or workers that would not give the same bytes (exit 1)
 └── UsageError            options that contradict each other or name nothing known (exit 2)

`quant.QuantError` is the arithmetic's own root; `ggufkit.cli` turns both into one line of text.
"""


class GgufkitError(Exception):
    """Root of every error raised by ggufkit."""

    exit_code = 1


class InputError(GgufkitError):
    """What was read is not what it should be."""


class CheckpointError(InputError):
    """A Hugging Face folder that cannot be used."""


class TokenizerError(InputError):
    """A vocabulary that is missing or malformed."""


class GgufError(InputError):
    """A GGUF file that breaks the format."""


class ImatrixError(InputError):
    """An importance file that is malformed or belongs to another model."""


class RecipeError(InputError):
    """A recipe that cannot be applied."""


class OutputError(GgufkitError):
    """The result cannot be written where it was asked for."""


class EngineError(GgufkitError):
    """llama.cpp would not load or run."""


class CutError(EngineError):
    """A model whose layers do not give alone what they give together."""


class ClusterError(GgufkitError):
    """Several machines cannot work on it as they are."""


class UsageError(GgufkitError):
    """Options that contradict each other or name nothing known."""

    exit_code = 2
