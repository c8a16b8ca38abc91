"""Conversations to token ids: the model's chat template, rendered apart, tokenized so that users cannot forge turns.

What a user writes is text, even where it spells `<|im_end|>`. Before rendering, a marker that cannot occur in text is
put inside every control token's spelling in a message; after rendering the prompt is cut there, and each part is
tokenized on its own. The template's own control tokens stay whole. Does not know generation or servers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ggufkit.errors import InputError, UsageError
from ggufkit.formats.files import shown
from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.templates import TemplateWorker
from ggufkit.runtime.vocabulary import Vocabulary

MAX_TEMPLATE_NBYTES = 256 << 10
MAX_MESSAGES_NBYTES = 8 << 20
ROLES = ("system", "user", "assistant", "tool")
_MARK = "\ufdd1"  # a noncharacter: Unicode keeps it for such inner use


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. role is one of ROLES."""

    role: str
    content: str


def tokenize_chat(engine: Engine, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> I32Array:
    """Token ids (n,) of a conversation under the model's own template, BOS once where the model wants it.

    Raises InputError where the file carries no template or the template fails, UsageError for unknown roles.
    """
    template = engine.chat_template
    if template is None:
        raise InputError(f"{engine.path.name} carries no chat template. Continue a text instead (without --chat).")
    vocab = engine.vocab
    safe = [Message(message.role, mark_control(message.content, vocab.control_texts)) for message in messages]
    text = render(
        engine.templates,
        template,
        safe,
        add_generation_prompt=add_generation_prompt,
        bos_token=_spelling(vocab, vocab.bos),
        eos_token=_spelling(vocab, vocab.eos),
    )
    return tokenize_marked(vocab, text)


def render(
    worker: TemplateWorker,
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """The prompt's text. The template runs in a process with two seconds and 512 MiB."""
    if len(template.encode()) > MAX_TEMPLATE_NBYTES:
        raise InputError(f"the chat template has more than {MAX_TEMPLATE_NBYTES} bytes; none that is honest has")
    if sum(len(message.content.encode(errors="replace")) for message in messages) > MAX_MESSAGES_NBYTES:
        raise InputError(f"the conversation has more than {MAX_MESSAGES_NBYTES} bytes. Shorten it")
    for message in messages:
        if message.role not in ROLES:
            raise UsageError(f"unknown role {shown(message.role)!r}. Known: {', '.join(ROLES)}")
    variables = {
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    return worker.render(template, variables)


def mark_control(content: str, control_texts: Sequence[str]) -> str:
    """`content` with a marker inside every spelling of a control token; no part between markers spells one."""
    content = content.replace(_MARK, "")
    if not control_texts:
        return content
    pattern = re.compile("|".join(re.escape(text) for text in control_texts))
    while pattern.search(content):  # again, for spellings that overlap
        content = pattern.sub(lambda found: found[0][0] + _MARK + found[0][1:], content)
    return content


def tokenize_marked(vocab: Vocabulary, text: str) -> I32Array:
    """Token ids of a rendered prompt, cut at the markers."""
    parts = [vocab.tokenize(part, add_special=False, parse_special=True) for part in text.split(_MARK)]
    ids: I32Array = np.concatenate(parts)
    if vocab.add_bos and vocab.bos >= 0 and (not len(ids) or ids[0] != vocab.bos):
        ids = np.concatenate((np.array([vocab.bos], dtype=np.int32), ids))
    return ids


def _spelling(vocab: Vocabulary, token: int) -> str:
    return vocab.piece(token, special=True).decode("utf-8", errors="replace") if token >= 0 else ""
