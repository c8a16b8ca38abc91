"""What ends llama.cpp's process instead of giving an error, or makes it compute NaN, looked for by name before the
library sees a file.

Each rule is an assertion or an uncaught exception of llama.cpp (src/llama-model.cpp, src/llama-vocab.cpp,
ggml/src/ggml-cpu), found by reading it and by editing files at random. Faults that the library itself reports are left
to it. The same rules are asked before a file is written for llama.cpp. Does not load anything.
"""

from collections.abc import Iterable, Iterator, Mapping

from ggufkit.errors import GgufError
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.model import KV
from ggufkit.runtime.checks.hyperparameters import hyperparameter_problems
from ggufkit.runtime.checks.tensors import StoredTensor, tensor_problems
from ggufkit.runtime.checks.vocabulary import incomplete_spelling, vocabulary_problems

__all__ = ["incomplete_spelling", "problems", "require_runnable"]


def require_runnable(header: GgufFile) -> None:
    """Raise GgufError where llama.cpp would end, or compute NaN: key or tensor, what it is, what is right."""
    found = list(problems(header.metadata, header.tensors))
    if found:
        more = f" ({len(found) - 1} more of this kind.)" if len(found) > 1 else ""
        raise GgufError(
            f"{header.path}: {found[0]}. llama.cpp would end or compute nothing of use. Make the file again, or fetch "
            f"another.{more}"
        )


def problems(metadata: Mapping[str, KV], tensors: Iterable[StoredTensor]) -> Iterator[str]:
    """One sentence for each thing that llama.cpp cannot run. A file without an architecture's keys has none here."""
    stored = {tensor.name: tensor for tensor in tensors}
    yield from hyperparameter_problems(metadata, stored)
    yield from tensor_problems(stored.values())
    yield from vocabulary_problems(metadata)
