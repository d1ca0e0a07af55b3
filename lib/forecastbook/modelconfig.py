"""Configurations of the sales pipeline that this replaces: a model_config JSON, translated into keys of ``params.Tide``."""

from __future__ import annotations

import json
import logging

log = logging.getLogger(__name__)

# the layers of TiDE by darts' names, which the old configurations use too
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
_OLD_TOP = dict(lags="sequence_length", quantiles="levels", model_id=None)


def from_config(config) -> dict:
    """Keys of ``params.Tide`` from an old model_config JSON, text or dictionary: with the quantile loss and restarts it meant.

    ValueError names a key that is not known, a section that is not a dictionary, and a rate that cannot be one: the published
    defaults (lr 4.616, weight_decay 6.206) have lost their exponents.
    """
    try:
        config = json.loads(config) if isinstance(config, (str, bytes)) else config
    except json.JSONDecodeError as error:
        raise ValueError(f"model config: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"model config: wanted a dictionary of sections, got {type(config).__name__}")
    out = dict(head="quantile", schedule="cosine_restarts", gradient_clip=0.5)
    for section, given in config.items():
        if section in _OLD_TOP:
            out |= _ours(section, _OLD_TOP[section], given)
            continue
        if section not in _OLD:
            raise ValueError(f"model config: unknown key {section!r}: it knows {', '.join([*_OLD, *_OLD_TOP])}")
        if not isinstance(given, dict):
            raise ValueError(f"model config: {section} must be a dictionary, got {given!r}")
        for key, value in given.items():
            if key not in _OLD[section]:
                raise ValueError(f"model config: unknown key {section}.{key!r}: it knows {', '.join(_OLD[section])}")
            if key in ("lr", "weight_decay", "swa_lrs") and not _is_rate(value):
                raise ValueError(
                    f"model config: {section}.{key} is {value!r}, no number from 0 to 1: its exponent was lost when it was "
                    f"written down; look it up where it was tuned, or leave it out"
                )
            out |= _ours(f"{section}.{key}", _OLD[section][key], value)
    return out


def _ours(key: str, name: str | None, value) -> dict:
    """A value under its name here; nothing, and a warning, where it has none."""
    if name is not None:
        return {name: value}
    log.warning("model config: %s is %r, which has no counterpart here and is left out", key, value)
    return {}


def _is_rate(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
