"""Write docs/schemas: JSON Schema of every kind of result that a command prints with --json."""

import json
from pathlib import Path

from ggufkit.reports.schemas import SCHEMAS, json_schema

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"


def text_of(name: str) -> str:
    """The file's content."""
    return json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name in SCHEMAS:
        (FOLDER / f"{name}.json").write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    main()
