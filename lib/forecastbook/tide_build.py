"""darts' TiDE built and run: its settings, its optimizer and its trainer, without a word that is not asked for.

The classes are in ``tide_darts``, which ``nets`` imports when a network is built.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from functools import cache

import torch

from . import tide_data
from .tide_model import NETWORK, TideError

LEAST_STEPS = 12  # of a one-cycle: torch divides by zero in a shorter one


def device(hyper: dict) -> str:
    if hyper["device"] == "cuda" and not torch.cuda.is_available():
        raise TideError("device is cuda, but torch sees no CUDA device here; set device to auto or cpu")
    return "cuda" if hyper["device"] != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def quiet():
    """Inside, Lightning and darts tell of nothing but errors, and nobody else's random numbers are used up."""
    names = ("pytorch_lightning", "lightning", "lightning_fabric", "darts", "torch.onnx")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


# What tqdm says at its import, wherever that comes first: a notebook that runs headless has no widgets, and wants none.
warnings.filterwarnings("ignore", message="IProgress not found")


@cache
def nets():
    """The module of the classes that stand on darts. darts takes 11 s to import, so that it is imported when one is wanted."""
    with quiet():
        from . import tide_darts
    return tide_darts


def _as_is(batch):
    return batch


LOADER = dict(collate_fn=_as_is, pin_memory=False)


def network(hyper: dict, stats: dict, *, seed=0, epochs=1, steps=1, chunks=1, callbacks=(), progress=False):
    """darts' model with our network in it, not yet built: ``epochs`` of ``steps`` steps."""
    if hyper["schedule"] == "one_cycle":
        rates, how = torch.optim.lr_scheduler.OneCycleLR, dict(max_lr=hyper["learning_rate"], pct_start=0.2)
        how["total_steps"] = max(max(hyper["epochs"], epochs) * steps + 1, LEAST_STEPS)
    else:
        rates, how = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, dict(T_0=hyper["T_0"], T_mult=hyper["T_mult"])
    off = ("logger", "enable_checkpointing", "enable_model_summary")
    tide = nets().Tide(
        input_chunk_length=hyper["sequence_length"],
        output_chunk_length=hyper["forecast_length"],
        **{name: hyper[name] for name in (*NETWORK, "dropout", "batch_size")},
        likelihood=nets().Head(hyper),
        optimizer_cls=torch.optim.AdamW,
        optimizer_kwargs=dict(lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"], fused=True),
        lr_scheduler_cls=rates,
        lr_scheduler_kwargs=dict(how, interval="step"),
        n_epochs=epochs,
        random_state=seed,
        pl_trainer_kwargs=dict(
            accelerator="gpu" if device(hyper) == "cuda" else "cpu",
            devices=1,
            limit_train_batches=chunks,
            enable_progress_bar=progress,
            callbacks=list(callbacks),
            **dict.fromkeys(off, False),
        ),
    )
    tide.prepared = hyper, stats
    return tide


def built(hyper: dict, scaling: dict, state: dict, **named):
    """The darts model of a network of an ensemble, ready to forecast or to be trained on."""
    stats = {name: state[name] for name in ("static_mean", "static_std") if name in state}
    tide, nobody = network(hyper, stats, **named), torch.zeros(1, dtype=torch.long)
    tide.train_sample, tide.output_dim = nets().Windows(tide_data.blank(hyper, scaling), nobody, nobody)[0], 1
    tide.model = tide._init_model()
    try:
        tide.model.load_state_dict(state)
    except RuntimeError as error:
        raise TideError(f"tide: these weights are not of this network: {' '.join(str(error).split())[:300]}") from None
    tide._fit_called = True
    return tide
