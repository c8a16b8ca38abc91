"""Chat templates of a checkpoint, wherever they lie, as GGUF metadata.

Precedence is that of transformers 5: chat_template.jinja and the files of additional_chat_templates/ win over
tokenizer_config.json; a processor's chat_template.json comes last. A template that cannot be read is left out with a
note. Does not know Jinja.
"""

from string import ascii_letters, digits
from typing import Any

from gguf import GGUFValueType, Keys

from ggufkit.errors import TokenizerError
from ggufkit.formats.model import KV
from ggufkit.tokenizer.files import MAX_TEMPLATE_BYTES, TokenizerFiles

_FILE, _MORE = "chat_template.jinja", "additional_chat_templates"
_DEFAULT = "default"


def chat_templates(files: TokenizerFiles) -> tuple[KV, ...]:
    """The default template, and the named ones with a list of their names."""
    named = _from_files(files)
    for name in ("tokenizer_config.json", "chat_template.json"):
        named = named or _declared(files.read_object(name).get("chat_template"), files, name)
    default = named.pop(_DEFAULT, None)
    out = [
        KV(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), GGUFValueType.STRING, text) for name, text in named.items()
    ]
    if named:  # sorted: the converter lists them in the order of a hash, so its bytes change from run to run
        out.append(KV(Keys.Tokenizer.CHAT_TEMPLATES, GGUFValueType.ARRAY, sorted(named), GGUFValueType.STRING))
    if default is not None:
        out.append(KV(Keys.Tokenizer.CHAT_TEMPLATE, GGUFValueType.STRING, default))
    return tuple(out)


def _from_files(files: TokenizerFiles) -> dict[str, str]:
    """Name → template. What begins with a dot is litter of macOS or an editor."""
    folder = files.folder / _MORE
    try:
        more = sorted(path.name for path in folder.iterdir()) if files.exists(_MORE) else []
    except OSError as error:
        files.note(f"{folder}: cannot be listed: {error.strerror}")
        more = []
    more = [name for name in more if name.endswith(".jinja") and not name.startswith(".")]
    places = {_plain(name.removesuffix(".jinja")): f"{_MORE}/{name}" for name in more}
    if files.exists(_FILE):
        places = {_DEFAULT: _FILE} | places
    found = {name: _read(files, place) for name, place in places.items()}
    return {name: text for name, text in found.items() if text}


def _read(files: TokenizerFiles, place: str) -> str:
    try:
        text = files.read_text(place, MAX_TEMPLATE_BYTES)
    except TokenizerError as error:
        files.note(str(error))
        return ""
    if not text:
        files.note(f"{place} is empty")
    return text


def _declared(value: Any, files: TokenizerFiles, where: str) -> dict[str, str]:
    """Name → template of an entry: one text, or several as a dict, or as a list of objects with name and template."""
    if value is None:
        return {}
    if isinstance(value, str):
        pairs: list[tuple[Any, Any]] = [(_DEFAULT, value)]
    elif isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(each.get("name"), each.get("template")) if isinstance(each, dict) else (None, each) for each in value]
    else:
        pairs = [(None, value)]
    out = {}
    for name, text in pairs:
        if fault := _fault(name, text):
            files.note(f"{where}: a chat template {fault}")
        elif text:
            out[_plain(name)] = text
    return out


def _fault(name: Any, text: Any) -> str:
    if not isinstance(name, str) or not isinstance(text, str):
        return f"is a {type(text).__name__} called {name!r:.40}, wanted words"
    if len(text) > MAX_TEMPLATE_BYTES:
        return f"has {len(text)} characters, at most {MAX_TEMPLATE_BYTES} are read"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds U+{ord(text[error.start]):04X}, half a character"
    return ""


def _plain(name: str) -> str:
    """A name as it may stand in a metadata key."""
    return "".join(c if c in ascii_letters + digits else "_" for c in name)
