"""Settings of the host process that CPU training needs."""

import ctypes
import gc
import sys

# The names and numbers are those of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes the C allocator keep what is freed instead of returning it to the system.

    XLA's CPU backend allocates the scratch memory of a program afresh for every call. glibc maps
    blocks that large one by one and unmaps them when freed, so that every training step faults
    in all its pages again (75,000 faults for the tiny preset, a third of the step). Call it once,
    before the first JAX computation; the process then stays at its peak size, until
    `return_freed_memory`. Without glibc it does nothing.
    """
    mallopt = _of_allocator("mallopt")
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # Other arenas cannot hold large blocks and would map them.
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Gives back once what `keep_freed_memory` has made the allocator keep: between two stages.

    A stage's program and its scratch memory are then not there beside the next one's. Without
    glibc only Python's own unreachable objects are freed.
    """
    gc.collect()
    trim = _of_allocator("malloc_trim")
    if trim is not None:
        trim(0)


def _of_allocator(name: str):
    """A function of glibc's allocator, or None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
