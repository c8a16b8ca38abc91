"""Conversations to token ids: the model's chat template, rendered apart, tokenized so that users cannot forge turns.

What a user writes is text, even where it spells `<|im_end|>`. Before rendering, a marker that cannot occur in text is
put inside every spelling of a token of the template in a message; after rendering the prompt is cut there, and each
part is tokenized on its own. What the template itself writes stays whole. Does not know generation or servers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from ggufkit.errors import InputError, UsageError
from ggufkit.formats.files import shown
from ggufkit.runtime.batch import I32Array
from ggufkit.runtime.engine import Engine
from ggufkit.runtime.templates import TemplateWorker
from ggufkit.runtime.vocabulary import Vocabulary, by_length

MAX_TEMPLATE_NBYTES = 256 << 10
MAX_MESSAGES_NBYTES = 8 << 20
ROLES = ("system", "user", "assistant", "tool")
_MARK = "\ufdd1"  # a noncharacter: Unicode keeps it for such inner use
_MARKER = re.compile(r"<[^\s<>]{2,}>|\[[^\s\[\]]{2,}\]")  # how turns are marked where no added token does it
# transformers' name of a token -> GGUF's
_NAMED = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
_FORBIDDEN: WeakKeyDictionary[Engine, tuple[str, tuple[str, ...], tuple[str, ...]]] = WeakKeyDictionary()


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
        raise InputError(f"{engine.path.name} has no chat template. Continue a text instead (--raw).")
    forbidden = _forbidden_texts(engine, template)
    safe = [Message(message.role, mark_control(message.content, forbidden[message.role == "assistant"]))
            for message in messages]  # fmt: skip
    text = render(
        engine.templates, template, safe, add_generation_prompt=add_generation_prompt, tokens=named_tokens(engine)
    )
    return tokenize_marked(engine.vocab, text)


def render(
    worker: TemplateWorker,
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tokens: Mapping[str, str] | None = None,
) -> str:
    """The prompt's text. The template runs in a process with two seconds and 512 MiB.

    tokens  see `named_tokens`

    The template sees what transformers passes: no tools and no documents are None, a token that the model lacks is
    not defined. Source: transformers apply_chat_template.
    """
    if len(template.encode()) > MAX_TEMPLATE_NBYTES:
        raise InputError(f"the chat template has more than {MAX_TEMPLATE_NBYTES} bytes; a real one is far smaller")
    if sum(len(message.content.encode(errors="replace")) for message in messages) > MAX_MESSAGES_NBYTES:
        raise InputError(f"the conversation has more than {MAX_MESSAGES_NBYTES} bytes. Shorten it")
    for message in messages:
        if message.role not in ROLES:
            raise UsageError(f"unknown role {shown(message.role)!r}. Known: {', '.join(ROLES)}")
    variables = {
        **(tokens or {}),
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return worker.render(template, variables)


def named_tokens(engine: Engine) -> dict[str, str]:
    """`bos_token`, `eos_token`, `unk_token` …, those that the file names, as they are spelled."""
    vocab, found = engine.vocab, {}
    defaults = {"bos": vocab.bos, "eos": vocab.eos}
    for name, key in _NAMED.items():
        token = engine.header.value(f"tokenizer.ggml.{key}_token_id")
        token = token if isinstance(token, int) else defaults.get(name, -1)
        if 0 <= token < vocab.n_vocab:
            found[f"{name}_token"] = vocab.spelling(token)
    return found


def _forbidden_texts(engine: Engine, template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What no message may spell as a token: people's messages, and the assistant's.

    Control tokens, always, and other added tokens where the template writes them. What the assistant said may hold
    those that the template looks for in it, such as the end of its thoughts; only what opens a turn is forbidden there.
    """
    known = _FORBIDDEN.get(engine)
    if known is None or known[0] != template:
        vocab, opening = engine.vocab, _skeleton(engine, template, ("user",))
        turns = _skeleton(engine, template, ("user", "assistant", "user"))
        whole = opening + turns + _skeleton(engine, template, ("system", "user", "assistant", "user"))
        added = {text for text in vocab.added_texts if text.strip()}
        people = {text for text in added if text in template or text in whole} | _plain_markers(vocab, whole)
        assistant = {text for text in added if text in opening} | _plain_markers(vocab, opening)
        control = vocab.control_texts
        known = (template, by_length({*control, *people}), by_length({*control, *assistant}))
        _FORBIDDEN[engine] = known
    return known[1], known[2]


def _plain_markers(vocab: Vocabulary, text: str) -> set[str]:
    """Ordinary tokens of `text` that look like a marker: some vocabularies have no others."""
    tokens = set(vocab.tokenize(text, add_special=False, parse_special=True).tolist())
    return set(filter(_MARKER.fullmatch, map(vocab.spelling, tokens)))


def _skeleton(engine: Engine, template: str, roles: Sequence[str]) -> str:
    """What the template writes around messages; empty where it refuses such a conversation."""
    try:
        return render(engine.templates, template, [Message(role, "x") for role in roles], tokens=named_tokens(engine))
    except InputError:
        return ""


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
