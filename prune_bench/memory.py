"""The C library's memory, told to keep what is freed.

Activations of a megabyte come and go thousands of times a second. By itself glibc gives much of that back to the
kernel after every step, and it is paid for again, page by page, in the next.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_KEPT = 2**25  # the most that glibc takes as a threshold
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keeps what this process frees, in pieces of up to 32 MiB, for what it asks for next.

    Returns:
        Whether it could be told: the C library is glibc. Elsewhere nothing changes.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(tell(_MMAP_THRESHOLD, _LARGEST_KEPT) and tell(_TRIM_THRESHOLD, _NEVER))
