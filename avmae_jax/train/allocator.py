"""What the memory allocator is told before a step runs on a CPU."""

import ctypes
import platform

# Of malloc.h: where glibc gives freed memory back, whether large blocks bypass the heap, and how many heaps there are.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has glibc reuse what was freed instead of returning it to the system; elsewhere nothing happens.

    On a CPU, XLA allocates and frees all buffers of a step as one block. glibc maps a block of that size anew each time, and the system
    then fills it with zeros page by page: 600,000 page faults in a step of the base model, 5 to 40 % of its time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)  # heaps of other threads hold 64 MB at most, and a larger block would be mapped after all
