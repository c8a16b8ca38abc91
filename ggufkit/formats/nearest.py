"""What a person probably meant by a name that is not known: Q4_K_M for q4km. Knows spelling, not meaning."""

import difflib
import re
from collections.abc import Iterable

from ggufkit.formats.files import shown

_ALIKE = 0.8  # share of the characters that stand in the same order; less, and the list says more than a guess
_FEW = 10  # names that are read at a glance


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in `known`: what it may have meant, else what there is."""
    return f"unknown {what} {shown(name)!r}. {meant(name, known)}"


def meant(name: str, known: Iterable[str]) -> str:
    """`Did you mean …?`, the known names where none is close, and both where these are few."""
    names = list(known)
    near, listed = nearest(name, names), f"Known: {', '.join(names)}"
    if not near:
        return listed
    asked = f"Did you mean {' or '.join(near)}?"
    return asked if len(names) > _FEW else f"{listed}. {asked}"


def nearest(name: str, known: Iterable[str], *, most: int = 2) -> list[str]:
    """Known names close to `name`, the closest first; one that differs in case and punctuation only stands alone."""
    plain: dict[str, list[str]] = {}
    for one in known:
        plain.setdefault(_plain(one), []).append(one)
    wanted = _plain(name[:200])
    if wanted in plain:
        return plain[wanted][:most]
    longer = [key for key in plain if len(wanted) > 3 and key.startswith(wanted)]
    close = longer or difflib.get_close_matches(wanted, plain, n=most, cutoff=_ALIKE)
    return [one for key in close for one in plain[key]][:most]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9*]", "", name.lower())
