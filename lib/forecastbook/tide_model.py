"""TiDE's model as data: its settings and what they may be, the weights of an ensemble on disk, and old configurations.

No network is built here. Symbols: E networks of the ensemble.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .files import write_json
from .tide_data import CONTEXT
from .tide_heads import HEADS, LEVELS, quantile_weights

log = logging.getLogger(__name__)

SCHEDULES = ("one_cycle", "cosine_restarts")
DEFAULTS = dict(
    sequence_length=8,  # periods of the window; what is further back it reads smoothed, from the context
    forecast_length=4,  # periods ahead that are trained for: the most that can be forecast
    hidden_size=64,  # twice as many cost more and gain nothing on a few thousand items
    num_encoder_layers=1,
    num_decoder_layers=1,
    decoder_output_dim=16,
    temporal_width_past=0,  # numbers a period that past covariates are projected to; 0: they are read as they are
    temporal_width_future=0,
    temporal_hidden_size_past=16,
    temporal_hidden_size_future=16,
    temporal_decoder_hidden=32,
    use_layer_norm=False,
    dropout=0.2,
    covariates=False,  # past covariates: price, promotion, availability, momentum of groups
    static_covariates=False,  # categories, multi-hot
    seasonal=None,  # year-ago counts and calendar; None: where the panel holds a year and two windows
    window_scale=True,  # False: raw counts and nothing else, as darts has it
    head="zinb",
    levels=LEVELS,  # of the quantile head
    sigma_left=None,  # widths of the quantile weights; None: plain pinball
    sigma_right=None,
    weight_alpha=0.0,  # windows weigh .1 + alpha log1p(own mean); 0: alike
    batch_size=512,
    learning_rate=3e-3,  # peak of the one-cycle, start of each cosine
    weight_decay=0.0,
    schedule="one_cycle",
    T_0=130,  # steps of the first cosine
    T_mult=3,
    gradient_clip=1.0,
    swa_start=None,  # share of the epochs after which weights are averaged; None: never
    swa_lr=1e-4,
    epochs=5,  # 14 are worse on real sales, by 1 %
    max_steps=2000,  # of all epochs together
    validation_days=0,  # last periods kept to find the number of epochs before all are learnt from; 0: all epochs
    patience=4,  # epochs without a better validation loss
    train_days=None,  # windows whose origin lies in the last so many periods only
    seeds=3,  # networks whose quantiles are averaged
    seed=0,
    device="auto",
)
NETWORK = (
    "hidden_size",
    "num_encoder_layers",
    "num_decoder_layers",
    "decoder_output_dim",
    "temporal_width_past",
    "temporal_width_future",
    "temporal_hidden_size_past",
    "temporal_hidden_size_future",
    "temporal_decoder_hidden",
    "use_layer_norm",
)
SHAPE = ("sequence_length", "forecast_length", *NETWORK)
SHAPE += ("covariates", "static_covariates", "seasonal", "window_scale", "head", "levels", "seeds")  # all fixed once trained

# the sections of an old model_config JSON: its names, and ours; None where nothing here corresponds
_OLD = {
    "model_config": {
        **{name: name for name in (*NETWORK, "dropout", "batch_size")},
        **dict(input_chunk_length="sequence_length", output_chunk_length="forecast_length", n_epochs="epochs"),
        **dict(use_reversible_instance_norm=None, random_state="seed"),
    },
    "optimizer_config": dict(lr="learning_rate", weight_decay="weight_decay"),
    "lr_shed_config": dict(T_0="T_0", T_mult="T_mult"),
    "swa_config": dict(swa_lrs="swa_lr", swa_epoch_start="swa_start", annealing_epochs=None),
    "weights_config": dict(sigma_left="sigma_left", sigma_right="sigma_right"),
    "train_ds_config": dict(alpha="weight_alpha", span=None),
}
_OLD_TOP = dict(lags="sequence_length", quantiles="levels")


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
    """Hyperparameters over their defaults. TypeError on an unknown name, TideError on a value out of range."""
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise TypeError(f"tide has no hyperparameter {unknown[0]!r}: it knows {', '.join(DEFAULTS)}")
    hyper = {**base, **given}
    hyper["levels"] = tuple(float(level) for level in hyper["levels"])
    whole = dict.fromkeys(("sequence_length", "forecast_length", "batch_size", "epochs", "max_steps", "patience", "seeds"), 1)
    whole |= dict.fromkeys((name for name in NETWORK if name != "use_layer_norm"), 1) | dict(T_0=1, T_mult=1, validation_days=0)
    whole |= dict(temporal_width_past=0, temporal_width_future=0)
    for name, least in whole.items():
        if isinstance(hyper[name], bool) or not isinstance(hyper[name], int) or hyper[name] < least:
            raise TideError(f"tide: {name} must be a whole number of at least {least}, got {hyper[name]!r}")
    for name, allowed in (("head", HEADS), ("schedule", SCHEDULES), ("device", ("auto", "cpu", "cuda"))):
        if hyper[name] not in allowed:
            raise TideError(f"tide: {name} must be one of {', '.join(allowed)}, got {hyper[name]!r}")
    if hyper["train_days"] is not None and (not isinstance(hyper["train_days"], int) or hyper["train_days"] < 1):
        raise TideError(f"tide: train_days must be a whole number of at least 1, or none, got {hyper['train_days']!r}")
    rates = dict(learning_rate=(0, 1), swa_lr=(0, 1), dropout=(-1e-9, 1), weight_decay=(-1e-9, 1))
    rates |= dict(weight_alpha=(-1e-9, 1e6), gradient_clip=(-1e-9, 1e6))  # a clip of 0 is none
    for name, (low, high) in rates.items():
        number = isinstance(hyper[name], (int, float)) and not isinstance(hyper[name], bool)
        if not (number and low < hyper[name] < high):
            raise TideError(f"tide: {name} must be a number between {max(low, 0)} and {high:g}, got {hyper[name]!r}")
    if hyper["swa_start"] is not None and not 0 < hyper["swa_start"] < 1:
        raise TideError(f"tide: swa_start is a share of the epochs between 0 and 1, got {hyper['swa_start']!r}")
    if hyper["head"] != "quantile" and not hyper["window_scale"]:
        raise TideError("tide: a count head needs window_scale: on raw counts its mean runs away; set head to 'quantile'")
    if list(hyper["levels"]) != sorted(set(hyper["levels"])):
        raise TideError(f"tide: levels must rise, got {hyper['levels']}")
    quantile_weights(hyper["levels"], hyper["sigma_left"], hyper["sigma_right"])
    return hyper


def from_config(config) -> dict:
    """Hyperparameters of an old model_config JSON, text or dictionary: the quantile loss and cosine restarts that it meant.

    TideError names a key that is not known, a section that is not a dictionary, and a rate that cannot be one: the published
    defaults (lr 4.616, weight_decay 6.206) have lost their exponents.
    """
    try:
        config = json.loads(config) if isinstance(config, (str, bytes)) else config
    except json.JSONDecodeError as error:
        raise TideError(f"model config: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise TideError(f"model config: wanted a dictionary of sections, got {type(config).__name__}")
    out = dict(head="quantile", schedule="cosine_restarts", gradient_clip=0.5)
    for section, given in config.items():
        if section in _OLD_TOP:
            out[_OLD_TOP[section]] = given
            continue
        if section not in _OLD:
            raise TideError(f"model config: unknown key {section!r}: it knows {', '.join([*_OLD, *_OLD_TOP])}")
        if not isinstance(given, dict):
            raise TideError(f"model config: {section} must be a dictionary, got {given!r}")
        for key, value in given.items():
            if key not in _OLD[section]:
                raise TideError(f"model config: unknown key {section}.{key!r}: it knows {', '.join(_OLD[section])}")
            if key in ("lr", "weight_decay", "swa_lrs") and not _is_rate(value):
                raise TideError(
                    f"model config: {section}.{key} is {value!r}, no number from 0 to 1: its exponent was lost when it was "
                    f"written down; look it up where it was tuned, or leave it out"
                )
            if _OLD[section][key] is None:
                log.warning("model config: %s.%s is %r, which has no counterpart here and is left out", section, key, value)
            else:
                out[_OLD[section][key]] = value
    settings(out)
    return out


def _is_rate(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


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
