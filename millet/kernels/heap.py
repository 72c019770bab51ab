"""Memory that the C library keeps after it was freed, where it is GNU's; elsewhere nothing happens."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20  # the highest mmap threshold that glibc takes


def release_freed() -> None:
    """Give freed memory back to the operating system, which the C library would keep for later.

    Laying weights out anew frees each plain copy among packed ones that stay: 150 MB of holes for a model of 500 MB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed() -> None:
    """Keep freed memory for the next that asks, in blocks of up to 32 MB: for a trainer, whose steps are all alike.

    By default activations of some megabytes go back at once and come anew, and the system clears every page of them:
    measured, 0.4 of 7 seconds a step, and half of a product's time where its result is 12 MB.
    """
    settle = getattr(ctypes.CDLL(None), "mallopt", None)
    if settle is not None:
        settle(_TRIM_THRESHOLD, 2**31 - 1)
        settle(_MMAP_THRESHOLD, _LARGEST)
