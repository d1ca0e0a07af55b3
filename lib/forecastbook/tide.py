"""The sales model: TiDE (Das et al. 2023) as an ensemble: train, fine-tune, forecast, export.

The network itself stands on darts (``tide_darts``); its windows are in ``tide_data``, its settings and files in
``tide_model``.

Symbols: N series, T periods, H periods ahead, B windows, W windows in all, P parameters, Q levels, E networks of the ensemble.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch

from . import tide_data, tide_heads
from .counts import LEAST, Demand
from .panel import Panel
from .params import Params
from .threads import one_thread
from .tide_data import Feed
from .tide_heads import quantile_weights
from .tide_model import DEFAULTS, NETWORK, SHAPE, Model, TideError, load, save, settings

__all__ = ["DEFAULTS", "NETWORK", "SHAPE", "Model", "TideError", "load", "quantile_weights", "save", "settings"]

FINETUNE = Params.model_validate({"model": {"name": "tide"}, "source": {"kind": "warehouse_sales"}}).finetune.hyper
MOST_STEPS = 32  # whose windows are read at once
CHUNK = 4096  # windows a step where nothing is learnt
CLOSE = 1e-4  # relative difference that an exported network may have


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


# -------------------------------------------------------------------------------------------------------------- training


def fit(panel: Panel, *, progress: bool = False, on_epoch=None, **hyper) -> Model:
    """A new model of ``seeds`` networks, trained on every window of the panel up to its as-of date.

    In two phases where ``validation_days`` asks for it: the first network is trained without the last so many periods, which
    tell the epoch to stop at; then all are trained on everything for as long, along the same schedule. hyper: see
    ``DEFAULTS``; an unknown name is a TypeError. Same panel, settings and machine give the same bits. ``on_epoch`` is called
    with each row of ``history``.
    """
    hyper = settings(hyper)
    year, T = panel.year, len(panel.dates)
    if hyper["seasonal"] is None:
        reach = year + 2 * hyper["sequence_length"] <= T and hyper["forecast_length"] < year
        hyper["seasonal"] = bool(hyper["window_scale"] and reach)
    if hyper["seasonal"] and hyper["forecast_length"] >= year:
        raise TideError(f"tide: seasonal looks a year back and cannot serve forecast_length {hyper['forecast_length']}")
    scaling = tide_data.learn_scaling(panel, hyper)
    return _train(Model([None] * hyper["seeds"], hyper, scaling), panel, None, progress, on_epoch)


def finetune(model: Model, panel: Panel, *, progress: bool = False, parent: str | None = None, on_epoch=None, **hyper) -> Model:
    """A new model whose networks start from those of ``model``; it is left as it is. Defaults beside its own: ``FINETUNE``.

    The first network tells on the last ``validation_days`` how many epochs are better than none; where none is, the weights
    stay what they were (``info["kept_epoch"]`` is 0). Only periods that ``model`` was not trained on can tell; with fewer of
    them than a horizon all epochs are trained. Shape settings cannot be changed here.
    """
    if "levels" in hyper:
        hyper["levels"] = tuple(hyper["levels"])
    for name in SHAPE:
        if name in hyper and hyper[name] != model.hyper[name]:
            was, wanted = model.hyper[name], hyper[name]
            raise TideError(f"tide: {name} is {was!r} in the model to fine-tune and cannot become {wanted!r}")
    child = Model(list(model.states), settings(hyper, {**model.hyper, **FINETUNE}), model.scaling, info=model.info)
    return _train(child, panel, parent or model.info.get("id", "given model"), progress, on_epoch)


@one_thread()
def _train(model: Model, panel: Panel, parent, progress, on_epoch) -> Model:
    """Both phases. ``model.states`` are what the networks start from, None each where they are new."""
    began, hyper, T = time.perf_counter(), model.hyper, len(panel.dates)
    first = max(0, T - (hyper["train_days"] or T))
    with quiet():
        feed = tide_data.feed(panel, hyper, model.scaling)
        windows = feed.windows(first, T - 1)
        if not len(windows[0]):
            raise TideError(
                f"tide: nothing to learn from in {T} periods of {len(panel)} series: a window needs {LEAST} periods "
                f"of an item's life and {hyper['forecast_length']} (forecast_length) after them"
            )
        unseen = int((panel.dates > np.datetime64(model.info.get("trained_until", "0001-01-01"), "D")).sum())
        kept = _search(model, feed, first, unseen, progress, on_epoch)
        if kept:
            for k, state in enumerate(model.states):
                recorder = nets().Recorder(on_epoch=None if model.history else on_epoch)
                net = _run(model, feed, windows, k, state, kept, [recorder, *_averaging(hyper, kept)], progress)
                model.states[k] = _finite({name: v.detach().to("cpu", copy=True) for name, v in net.model.state_dict().items()})
                model.history = model.history or recorder.history
        else:  # the start was best; a new network has none
            model.states = [{name: v.clone() for name, v in _finite(state).items()} for state in model.states]
    model.history = [dict(row, kept=row["epoch"] == kept) for row in model.history]
    model.info = dict(
        trained_from=str(panel.dates[first]),
        trained_until=str(panel.dates[-1]),
        as_of=str(panel.as_of),
        n_series=len(panel),
        n_origins=len(windows[0]),
        parent=parent,
        device=nets().device(hyper),
        parameters=sum(v.numel() for v in model.states[0].values()),
        kept_epoch=kept,
        seconds=round(time.perf_counter() - began, 2),
    )
    return model


def _finite(state: dict | None) -> dict:
    """The weights themselves; TideError where the training has run away."""
    if state is None or not all(torch.isfinite(v).all() for v in state.values()):
        raise TideError("tide: the training ran away to numbers that are not finite: lower learning_rate or gradient_clip")
    return state


def _search(model: Model, feed: Feed, first: int, unseen: int, progress, on_epoch) -> int:
    """The first phase: how many epochs to train for, told by the held-out last periods; writes ``model.history``.

    unseen: periods at the end that the weights to start from know nothing of. Only those may judge; where they are fewer
    than a horizon nobody can, and all epochs are trained.
    """
    hyper, T = model.hyper, feed.periods
    held = min(max(hyper["validation_days"], feed.horizon), T // 3, unseen) if hyper["validation_days"] else 0
    train, valid = feed.windows(first, T - 1 - held), feed.windows(T - held, T - 1)
    if not len(train[0]) or not len(valid[0]):
        return hyper["epochs"]
    start, judge = None, _judge(feed, valid)
    if model.states[0] is not None:
        start = judge(nets().built(hyper, model.scaling, model.states[0]).model)
        model.history = [dict(epoch=0, step=0, train_loss=None, validation_loss=start)]
    recorder = nets().Recorder(judge, hyper["patience"], on_epoch, start)
    _run(model, feed, train, 0, model.states[0], hyper["epochs"], [recorder], progress)
    model.history = model.history + recorder.history
    return recorder.kept


def _run(model: Model, feed: Feed, windows, k: int, state, epochs: int, callbacks, progress):
    """The k-th network, trained on windows (W,) from its state or from nothing."""
    hyper, data = model.hyper, nets().Windows(feed, *windows)
    every, most = math.ceil(len(data) / hyper["batch_size"]), max(1, hyper["max_steps"] // hyper["epochs"])
    chunks = math.ceil(min(every, most) / MOST_STEPS)
    together = math.ceil(every / chunks) if every <= most else most // chunks  # steps in a chunk
    steps = min(every, together * chunks)
    named = dict(seed=hyper["seed"] + k, epochs=epochs, steps=steps, chunks=chunks, callbacks=callbacks, progress=progress)
    if state is None:
        net = nets().network(hyper, tide_data.statistics(feed, *windows), **named)
    else:
        net = nets().built(hyper, model.scaling, state, **named)
    torch.set_flush_denormal(True)  # Adam's second moments of weights that are not used fall below 1e-38, where a CPU is slow
    try:
        return net.fit_from_dataset(data, dataloader_kwargs=dict(nets().LOADER, batch_size=together * hyper["batch_size"]))
    finally:
        torch.set_flush_denormal(False)


def _averaging(hyper: dict, epochs: int) -> list:
    """Lightning's averaging of weights (Izmailov et al. 2018), where it is asked for and there are epochs to average."""
    if hyper["swa_start"] is None or epochs < 2:
        return []
    return [nets().lightning.callbacks.StochasticWeightAveraging(hyper["swa_lr"], hyper["swa_start"], annealing_epochs=1)]


def _judge(feed: Feed, windows):
    """A function of a network: its mean loss over windows (W,)."""
    data = nets().Windows(feed, *windows)

    @torch.no_grad()
    def judge(module) -> float:
        was, total = module.training, 0.0
        module.eval()
        for i in range(0, len(data), CHUNK):
            rows = torch.arange(i, min(i + CHUNK, len(data)))
            batch = module.transfer_batch_to_device(data.__getitems__(rows), module.device, 0)
            total += float(module.loss_of(batch)) * len(rows)
        module.train(was)
        return total / len(data)

    return judge


# -------------------------------------------------------------------------------------------------------------- forecasting


@one_thread()
def forecast(model: Model, panel: Panel, horizon: int, quantiles) -> Demand:
    """Quantiles (N, H, Q), means and zero probabilities (N, H) of the periods after the panel's last one, not yet rounded.

    NaN rows for series never observed. TideError where ``horizon`` is more than the network was trained for.
    """
    hyper = model.hyper
    if not 1 <= horizon <= hyper["forecast_length"]:
        raise TideError(
            f"tide: the model was trained for {hyper['forecast_length']} periods ahead and cannot forecast {horizon}: "
            f"train it with forecast_length={horizon}"
        )
    N, Q, rows = len(panel), len(tuple(quantiles)), np.flatnonzero(panel.n_obs > 0)
    out = Demand(np.full((N, horizon, Q), np.nan), np.full((N, horizon), np.nan), np.full((N, horizon), np.nan))
    if not len(rows):
        return out
    with quiet():
        data = nets().Latest(tide_data.feed(panel, hyper, model.scaling), torch.from_numpy(rows))
        said = [_said(nets().built(hyper, model.scaling, state), data)[:, :horizon] for state in model.states]
    got = tide_heads.demand(said, hyper["head"], hyper["levels"], quantiles)
    for whole, part in ((out.q, got.q), (out.mean, got.mean), (out.zero, got.zero)):
        whole[rows] = part
    return out


def _said(net, data) -> np.ndarray:
    """Parameters (B, H, P) of a network for the last window of each series."""
    asked = dict(n=net.output_chunk_length, predict_likelihood_parameters=True, values_only=True, batch_size=CHUNK)
    return net.predict_from_dataset(dataset=data, dataloader_kwargs=dict(nets().LOADER), **asked)[0][..., 0]


# -------------------------------------------------------------------------------------------------------------- exported


@one_thread()
def export_onnx(model: Model, path) -> float:
    """The ensemble as one ONNX file: inputs as ``Feed.batch`` names them, any number of windows B; output (E, B, H, P).

    onnxruntime's answer is compared with torch's before it is believed: returns the largest relative difference, and raises a
    TideError that names it, leaving no file, where it is above ``CLOSE``.
    """
    import onnxruntime

    path = Path(path)
    with quiet():
        members = [nets().built(model.hyper, model.scaling, state).model.eval() for state in model.states]
        example = tide_data.invented(model.hyper, model.scaling, 8)
        names, tensors = list(example), tuple(example.values())
        exported = nets().Exported(members, model.hyper["head"], names)
        shapes = ({0: torch.export.Dim.DYNAMIC},) * len(names)
        program = torch.onnx.export(
            exported,
            tensors,
            input_names=names,
            output_names=["parameters"],
            dynamo=True,
            dynamic_shapes=(shapes,),
            verbose=False,
        )
        program.save(path)
        other = tide_data.invented(model.hyper, model.scaling, 5)
        wanted = exported(*other.values()).detach().numpy()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        got = session.run(None, {name: tensor.numpy() for name, tensor in other.items()})[0]
    difference = float(np.max(np.abs(got - wanted) / np.maximum(np.abs(wanted), 1.0)))
    if not difference <= CLOSE:
        path.unlink()
        raise TideError(f"{path}: onnxruntime and torch differ by {difference:.1e}, more than {CLOSE:.0e}: not exported")
    return difference
