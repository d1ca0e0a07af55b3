"""LightGBM without its wrappers for scikit-learn, which take a second of every process to import and serve nobody here.

The copy is our own: whoever imports lightgbm beside it gets the whole of it. Where that was done before, it serves here too.
Two things would bring the other copy in, and are not done: callbacks, which LightGBM imports when they run, and pickling.
"""

from __future__ import annotations

import sys
from types import ModuleType

WRAPPED = "sklearn"


def _lightgbm() -> ModuleType:
    whole = "lightgbm" in sys.modules or WRAPPED in sys.modules
    if not whole:
        sys.modules[WRAPPED] = None  # "not installed": LightGBM then leaves its wrappers out
    try:
        import lightgbm as found
    finally:
        if not whole:
            del sys.modules[WRAPPED]
    for name in [] if whole else [n for n in sys.modules if n.partition(".")[0] == "lightgbm"]:
        del sys.modules[name]
    return found


lightgbm = _lightgbm()
