"""`Sequence`: tokens of one sequence of an engine, computed once and kept, so that what grows costs what is new.

Knows positions and what the engine holds. Does not know sampling or text.
"""

from collections.abc import Callable

import numpy as np

from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.engine import Engine

OnPrompt = Callable[[int, int], None]  # tokens of the prompt that are there, and all of them


class Sequence:
    """Sequence `number` of `engine`, which nothing else computes in. `held` are its tokens in the engine's memory."""

    def __init__(self, engine: Engine, number: int = 0) -> None:
        self.engine, self._number = engine, number
        self._epoch = engine.epoch
        self.held: list[int] = []

    def prefill(self, prompt: I32Array, on_prompt: OnPrompt | None = None) -> int:
        """Compute what of `prompt` (n,) is not held yet; the logits of its last token are ready after. What was kept.

        Ctrl-C raises KeyboardInterrupt; what was computed until then is held.
        """
        kept = self._keep(prompt)
        step = self.engine.settings.n_ubatch  # llama.cpp computes this many at once: larger steps are not faster
        for start in range(kept, len(prompt), step):
            if on_prompt is not None:
                on_prompt(start, len(prompt))
            self.engine.share_cores()
            part = prompt[start : start + step]
            last = np.arange(start, start + len(part)) == len(prompt) - 1
            self.engine.decode(part, start, seq=self._number, logits=last)
            self.held += part.tolist()
        return kept

    def append(self, token: int) -> None:
        """Compute `token` behind the last one, with its logits."""
        if self._number == 0:
            self.engine.decode_one(token)
        else:
            self.engine.decode(np.array([token], dtype=np.int32), len(self.held), seq=self._number, logits=1)
        self.held.append(token)

    def _keep(self, prompt: I32Array) -> int:
        """Forget what does not begin `prompt`, and its last token, whose logits are wanted; how many tokens stay."""
        if self._epoch != self.engine.epoch:  # somebody cleared the memory
            self._epoch, self.held = self.engine.epoch, []
        n = min(len(self.held), len(prompt) - 1)
        same = np.array(self.held[:n], dtype=np.int32) == prompt[:n]
        n = n if same.all() else int(same.argmin())
        n = self.engine.forget(self._number, n)
        del self.held[n:]
        return n
