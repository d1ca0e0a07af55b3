"""TiDE's model as data: its settings, and the weights of an ensemble on disk.

No network is built here. Symbols: E networks of the ensemble.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .files import write_json
from .modelconfig import NETWORK
from .params import Tide, hyperparameters
from .tide_data import CONTEXT
from .tide_heads import LEVELS, quantile_weights

DEFAULTS = Tide(name="tide").model_dump(exclude={"name"}) | dict(
    forecast_length=4,  # periods ahead that are trained for: the most that can be forecast
    levels=LEVELS,  # of the quantile head
    patience=4,  # epochs without a better validation loss
    validation_days=0,  # last periods kept to find the number of epochs before all are learnt from; 0: all epochs
    train_days=None,  # windows whose origin lies in the last so many periods only
    seed=0,
)
SHAPE = ("sequence_length", "forecast_length", *NETWORK)
SHAPE += ("covariates", "static_covariates", "seasonal", "window_scale", "head", "levels", "seeds")  # all fixed once trained


class TideError(ValueError):
    """A setting, a file or a request that this model cannot work with; the message names it."""


@dataclass
class Model:
    """Weights of the E networks and what is needed to use them.

    scaling: what ``tide_data.learn_scaling`` kept. history: one dict an epoch with epoch, step, train_loss, validation_loss.
    info: sizes, training window, device, parent, kept_epoch, seconds.
    """

    home: ClassVar[str] = "forecastbook.tide"  # the module that handles it

    states: list[dict]
    hyper: dict
    scaling: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    info: dict = field(default_factory=dict)


def settings(given: dict, base: dict = DEFAULTS) -> dict:
    """Hyperparameters over their defaults. TypeError on an unknown name, TideError on a value that no params may have."""
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise TypeError(f"tide has no hyperparameter {unknown[0]!r}: it knows {', '.join(DEFAULTS)}")
    try:
        hyper = base | given | hyperparameters("tide", base | given)
    except ValueError as error:
        raise TideError(f"tide: {error}") from None
    hyper["levels"] = tuple(float(level) for level in hyper["levels"])
    if list(hyper["levels"]) != sorted(set(hyper["levels"])):
        raise TideError(f"tide: levels must rise, got {hyper['levels']}")
    quantile_weights(hyper["levels"], hyper["sigma_left"], hyper["sigma_right"])
    return hyper


def save(model: Model, directory) -> None:
    """weights.safetensors and model.json in a directory that is made. Wall-clock seconds stay out: same model, same bytes."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {f"{k}.{name}": tensor.contiguous() for k, state in enumerate(model.states) for name, tensor in state.items()}
    save_file(weights, directory / "weights.safetensors")
    text = dict(
        model="tide",
        **{"class": "TiDE"},
        hyperparameters=model.hyper,
        features=CONTEXT,
        scaling=model.scaling,
        info={k: v for k, v in model.info.items() if k != "seconds"},
        history=model.history,
    )
    write_json(directory / "model.json", text)


def load(directory) -> Model:
    """A model that ``save`` wrote. TideError names the file when one is missing, broken, or not of this version."""
    path = Path(directory) / "model.json"
    weights = path.with_name("weights.safetensors")
    again = "train again or restore the directory"
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        hyper, scaling, features = settings(text["hyperparameters"]), text["scaling"], tuple(text["features"])
        state = load_file(weights)
    except FileNotFoundError as error:
        raise TideError(f"{error.filename or weights}: no such file; {again}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise TideError(f"{path}: not a description of this model ({error}); {again}") from None
    except SafetensorError as error:
        raise TideError(f"{weights}: broken weights ({error}); {again}") from None
    if text["model"] != "tide" or features != CONTEXT:
        raise TideError(f"{path}: a model of another kind, or trained on other features than this version reads; train again")
    states = [{} for _ in range(hyper["seeds"])]
    try:
        for key, tensor in state.items():
            k, name = key.split(".", 1)
            states[int(k)][name] = tensor
    except (ValueError, IndexError):
        raise TideError(f"{weights}: key {key!r} is of none of the {hyper['seeds']} networks; {again}") from None
    if empty := [k for k, found in enumerate(states) if not found]:
        raise TideError(f"{weights}: has no weights of network {empty[0]} of {hyper['seeds']}; {again}")
    return Model(states, hyper, scaling, text["history"], text["info"])
