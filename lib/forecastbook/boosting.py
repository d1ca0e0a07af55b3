"""LightGBM without its wrappers for scikit-learn, which add a second to every import and are not used here.

The copy is our own: whoever imports lightgbm beside it gets the whole of it. Where that was done before, it serves here too.
Two things would bring the other copy in, and are not done: callbacks, which LightGBM imports when they run, and pickling.
"""

from __future__ import annotations

import sys
from types import ModuleType


def _lightgbm() -> ModuleType:
    if {"lightgbm", "sklearn"} & set(sys.modules):
        import lightgbm

        return lightgbm
    sys.modules["sklearn"] = None  # "not installed": LightGBM then leaves its wrappers out
    try:
        import lightgbm
    finally:
        del sys.modules["sklearn"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightgbm"]:
        del sys.modules[name]
    return lightgbm


lightgbm = _lightgbm()
