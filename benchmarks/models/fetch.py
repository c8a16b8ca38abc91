"""Fetch the real models and make the originals: python benchmarks/models/fetch.py [smollm2 qwen2.5-coder smollm2-moe]

Prints where each one lies. 4 GB of downloads and files for all three; `GGUFKIT_MODELS` names the folder.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models


def main() -> None:
    for name in sys.argv[1:] or models.NAMES:
        if name not in models.NAMES:
            sys.exit(f"no model {name!r}. Known: {', '.join(models.NAMES)}")
        print(f"{name}: {models.folder(name)}", flush=True)


if __name__ == "__main__":
    main()
