"""Sets up the memory allocator for training steps on a CPU."""

import ctypes
import platform

# From malloc.h: when glibc returns freed memory, whether large blocks bypass the heap, and the number of heaps.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes glibc reuse freed memory instead of returning it to the system; does nothing with other C libraries.

    On a CPU, XLA allocates and frees all buffers of a step as one block. glibc maps a block of that size anew each time, and the system
    then fills it with zeros page by page: 600,000 page faults in a step of the base model, 5 to 40 % of its time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)  # heaps of other threads hold 64 MB at most, and a larger block would be mapped after all


def give_back_freed_memory() -> None:
    """Returns memory that was freed so far to the system, wherever in the heap it lies; does nothing with other C libraries than glibc.

    A compiler frees far more than a step needs, and what remains of it lies in pieces that are too small for the step's one block.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
