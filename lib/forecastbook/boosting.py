"""LightGBM without its wrappers for scikit-learn, which add a second to every import and are not used here; and what both
trades' trees share: settings that give the same trees twice, and the seal under their text.

The copy is our own: whoever imports lightgbm beside it gets the whole of it. Where that was done before, it serves here too.
Two things would bring the other copy in, and are not done: callbacks, which LightGBM imports when they run, and pickling.
"""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType

STEADY = dict(num_threads=1, deterministic=True, verbose=-1)  # same rows, same trees, bit for bit: with a layout forced
SEAL = "sha256="  # begins the last line, the hash of all before: text that is cut off or changed makes LightGBM end the process


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


def sealed(text: str) -> str:
    """The text with its hash as the last line."""
    return f"{text}{SEAL}{_hash(text)}\n"


def unsealed(text: str) -> str:
    """What was given to ``sealed``. ValueError where it is no longer that."""
    text, _, seal = text.rpartition(SEAL)
    if seal.strip() != _hash(text):
        raise ValueError("cut off, changed, or not written by forecastbook")
    return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
