"""What arrays of a slab gave back is there for the next slab, and not the system's to hand out page by page again.

glibc maps large arrays one by one and unmaps them when they are freed, until it has seen a few; Dask starts its workers
with MALLOC_TRIM_THRESHOLD_, which ends that learning for good: every array of a slab then costs its page faults anew.
Knows mallopt of glibc; elsewhere nothing happens.
"""

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 16 << 20  # bytes of the arrays that are kept: four times a slab's weights
_MOST = 128 << 20  # bytes that may lie free at the end of the heap


@contextmanager
def keeping_memory() -> Iterator[None]:
    """While slabs are encoded; what lies free at the end goes back to the system."""
    keep_memory()
    try:
        yield
    finally:
        if (library := _glibc()) is not None:
            library.malloc_trim(0)


def keep_memory() -> None:
    """From now on, in this process, for all threads."""
    if (library := _glibc()) is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST)


@functools.cache
def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
