"""Does this interpreter hold a global lock right now?"""

from __future__ import annotations

import sys


def is_gil_enabled() -> bool:
    """Tell whether only one thread computes at a time. Asked at run time: an import can turn the GIL on."""
    ask = getattr(sys, "_is_gil_enabled", None)  # Python 3.13 and later
    return True if ask is None else bool(ask())
