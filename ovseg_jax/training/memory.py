"""Host memory: let the C library keep what is freed."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # options of mallopt(3)
_KEPT = 2**31 - 1  # bytes of free memory that stay with the process; mallopt takes an int
_GROWTH = 2**26


def keep_freed_memory() -> bool:
    """Makes glibc's allocator keep freed memory; to be called before arrays are made.

    XLA's CPU backend asks for its temporaries anew in every step. By default each large one is
    mapped and unmapped, and touching its pages for the first time takes longer than the arithmetic
    on them: attention at 1125 tokens, forward and backward, took 1.2 times as long. Results are the
    same; the peak of the memory may rise, since what is freed is kept.

    Returns:
      Whether the allocator took the options (elsewhere than with glibc it has none).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _GROWTH))
    return all(mallopt(option, value) == 1 for option, value in options)
