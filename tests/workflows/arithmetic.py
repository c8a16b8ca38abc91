"""How near to recorded figures a machine can come: llama.cpp adds products of BF16 otherwise with other instructions,
and a router that nearly ties sends a token to another expert then."""

from pathlib import Path

_CPU = Path("/proc/cpuinfo")
SLACK = 1 if _CPU.exists() and "avx512_bf16" in _CPU.read_text() else 200  # times what the recording machine needs
