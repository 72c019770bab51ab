"""Memory that the C library keeps after it was freed."""

import ctypes


def release_freed() -> None:
    """Give freed memory back to the operating system, where the C library is GNU's, which would keep it for later.

    Laying weights out anew frees each plain copy among packed ones that stay: 150 MB of holes for a model of 500 MB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
