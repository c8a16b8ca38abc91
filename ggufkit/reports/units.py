"""Numbers as a person reads them. Knows units; does not know what is being reported."""


def human_bytes(nbytes: float) -> str:
    """Bytes in the binary unit that leaves one to four digits: 26.49 GiB, 812 KiB, 17 B."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(nbytes) < 1024:
            break
        nbytes, unit = nbytes / 1024, larger
    return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.2f} {unit}"


def human_count(n: float) -> str:
    """A count in the field's short form: 46.7 B, 7.24 B, 22 M."""
    unit = ""
    for larger in (" K", " M", " B", " T"):
        if abs(n) < 1000:
            break
        n, unit = n / 1000, larger
    return f"{n:.0f}{unit}" if not unit else f"{n:.3g}{unit}"


def human_seconds(seconds: float) -> str:
    """A duration: 0.8 s, 42 s, 3:07, 1:02:09."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def parse_bytes(text: str) -> int:
    """`2GiB`, `1.5G`, `800MiB`, `4096` to bytes; K M G T are binary, with or without `iB`/`B`. Raises ValueError."""
    cleaned = text.strip().lower().removesuffix("b").removesuffix("i").strip()
    power = {"k": 1, "m": 2, "g": 3, "t": 4}.get(cleaned[-1:], 0)
    number = float(cleaned[:-1] if power else cleaned)
    if not 0 <= number < 2**60:
        raise ValueError(text)
    return int(number * 1024**power)
