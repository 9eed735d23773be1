"""Settings of the host process that CPU training needs."""

import ctypes
import sys

# The names and numbers are those of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes the C allocator keep what is freed instead of returning it to the system.

    XLA's CPU backend allocates the scratch memory of a program afresh for every call. glibc maps
    blocks that large one by one and unmaps them when freed, so that every training step faults
    in all its pages again (75,000 faults for the tiny preset, a third of the step). Call it once,
    before the first JAX computation; the process then stays at its peak size. Without glibc it
    does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # Other arenas cannot hold large blocks and would map them.
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
