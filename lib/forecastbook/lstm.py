"""The price model: train it, fine-tune it, forecast with it, keep it on disk. Two networks serve behind one interface.

``window="all"`` (the default) is ``forking``: an encoder LSTM, a decoder asked by horizon, with attention if wanted, and a
two-part distribution over posted prices. ``window="single"`` is ``plain``: the plain sequence-to-sequence network, so that an
existing ``lstm_forecaster.pth`` loads strictly and gives its own numbers; it is a point forecast, so all its quantiles are
equal. Each module has ``prepare`` (what is trained on) and what asks its network (``decode``, ``forecast``).

Symbols: N series, T days, H days ahead, K features, B windows in a batch, L sequence length, Q quantiles.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import pickle
import struct
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from . import forking, grid, plain, spells, sticky
from .files import write_json
from .forking import Forking
from .grid import Grid
from .panel import Panel
from .params import Finetune, Lstm, hyperparameters
from .plain import Plain
from .threads import one_thread

log = logging.getLogger(__name__)

DEFAULTS = Lstm().model_dump(exclude={"name"}) | dict(
    forecast_length=7,  # days ahead that are trained for: the most that can be forecast
    weight_decay=1e-4,
    patience=5,  # epochs without a better validation loss
    validation_days=28,  # the last days, whose prices are never a training target
    train_days=None,  # origins of the last so many days only
    seed=0,
)
BASE = Path(__file__).parent / "base"  # the directory of the network that the package carries
SHAPE = ("hidden_size", "num_layers", "attention", "window", "sequence_length", "forecast_length")  # fixed once trained
FINETUNE = Finetune().hyper


class LSTMError(ValueError):
    """A setting or a checkpoint that this model cannot work with; the message names it."""


@dataclass
class Model:
    """Weights and what is needed to use them.

    scaling: mean, std (K,), atoms (2 * BINS, 2); empty for the plain network. history: one dict an epoch (epoch 0 is the start)
    with train_loss, validation_loss and kept. info: training window, sizes, device, parent, seconds.
    """

    net: nn.Module
    hyper: dict
    scaling: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    info: dict = field(default_factory=dict)


def _network(hyper: dict) -> nn.Module:
    return Forking(hyper) if hyper["window"] == "all" else Plain(hyper)


def _settings(given: dict, base: dict | None = None) -> dict:
    """Hyperparameters over their defaults, or over those of a trained model. TypeError on an unknown name, LSTMError on a value
    that the params would not take."""
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise TypeError(f"lstm has no hyperparameter {unknown[0]!r}: it knows {', '.join(DEFAULTS)}")
    given = {**(base or {}), **given}
    try:
        return {**DEFAULTS, **given, **hyperparameters("lstm", given)}
    except ValueError as error:
        raise LSTMError(f"lstm: {error}") from None


def _device(hyper: dict) -> torch.device:
    name = hyper["device"]
    if name == "cuda" and not torch.cuda.is_available():
        raise LSTMError("device is cuda, but torch sees no CUDA device here; set device to auto or cpu")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


# ---------------------------------------------------------------------------------------------------------------- training


@one_thread()
def fit(panel: Panel, *, progress: bool = False, on_epoch=None, **hyper) -> Model:
    """A new model, trained on every origin of the panel whose targets lie before the last ``validation_days``.

    hyper: see ``DEFAULTS``; an unknown name is a TypeError. Same panel, settings and machine give the same bytes. A panel with
    nothing to train on gives the model that says "the last price". ``on_epoch`` is called with each row of ``history``: a
    search uses it to stop a weak trial.
    """
    hyper = _settings(hyper)
    with _seeded(hyper["seed"]):
        model = Model(net=_network(hyper), hyper=hyper)
        return _train(model, panel, parent=None, progress=progress, on_epoch=on_epoch)


@one_thread()
def finetune(model: Model, panel: Panel, *, parent: str | None = None, progress: bool = False, **hyper) -> Model:
    """A new model that starts from ``model`` and is trained on the origins of the last ``train_days``.

    The epoch with the best loss on the held-out last ``validation_days`` is kept; when none is better than the start, the
    start's weights are. Scaling stays as it was. ``model`` is left as it is. Shape settings cannot be changed here. Defaults
    beside the model's own: ``FINETUNE``.
    """
    for name in SHAPE:
        if name in hyper and hyper[name] != model.hyper[name]:
            was, wanted = model.hyper[name], hyper[name]
            raise LSTMError(f"lstm: {name} is {was!r} in the model to fine-tune and cannot become {wanted!r}")
    hyper = _settings(hyper, {**model.hyper, **FINETUNE})
    with _seeded(hyper["seed"]):
        net = _network(hyper)
        net.load_state_dict(model.net.state_dict())
        child = Model(net=net, hyper=hyper, scaling=dict(model.scaling))
        return _train(child, panel, parent=parent or model.info.get("id", "given model"), progress=progress)


def _train(model: Model, panel: Panel, parent, progress, on_epoch=None) -> Model:
    began = time.perf_counter()
    hyper, T = model.hyper, len(panel.dates)
    device = _device(hyper)
    # days with room for context and targets give up all that are to be held out; fewer of them keep most
    span, ahead = min(T, hyper["train_days"] or T), hyper["forecast_length"]
    held = min(hyper["validation_days"], max(min(T - hyper["sequence_length"], span - 1) - ahead, span // 4))
    network = forking if hyper["window"] == "all" else plain
    data = network.prepare(model, panel, held, cold=parent is None)
    model.net.to(device)
    best = _loop(model, data, device, progress, on_epoch)
    model.net.load_state_dict(best)
    model.net.to("cpu").eval()
    model.info = dict(
        trained_from=str(panel.dates[max(0, T - (hyper["train_days"] or T))]),
        trained_until=str(panel.dates[T - 1 - held]),
        as_of=str(panel.as_of),
        n_series=len(panel),
        n_origins=data.n_origins,
        parent=parent,
        device=str(device),
        parameters=sum(p.numel() for p in model.net.parameters()),
        kept_epoch=next(h["epoch"] for h in model.history if h["kept"]),
        seconds=round(time.perf_counter() - began, 2),
    )
    return model


# torch guards some functions against its compiler, which it imports for that: 1.1 CPU seconds, where nothing is compiled. Here
# the functions behind the guards are called.


@contextmanager
def _seeded(seed: int):
    """torch's random numbers begin with the seed inside, and go on where they were afterwards."""
    with torch.random.fork_rng():
        inspect.unwrap(torch.manual_seed)(seed)
        yield


class AdamW(torch.optim.AdamW):
    """torch's own, not guarded."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def _loop(model: Model, data, device, progress, on_epoch) -> dict:
    """Epochs of AdamW under a one-cycle rate; returns the best state dict and writes ``model.history``."""
    hyper, net = model.hyper, model.net
    batch = hyper["batch_size"]
    draw = np.random.default_rng(hyper["seed"])
    steps = min(max(math.ceil(data.size / batch), data.least), max(1, hyper["max_steps"] // hyper["epochs"]))
    if not data.n_origins:
        steps = 0
    best, best_loss = _copy(net), data.validate(net, device)
    model.history = [dict(epoch=0, step=0, train_loss=None, validation_loss=best_loss, kept=True)]
    if not steps:
        log.warning("lstm: no origin to train on; the model stays as it was")
        return best
    optimizer = AdamW(net.parameters(), lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"], fused=True)
    total = steps * hyper["epochs"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, hyper["learning_rate"], total_steps=total + 1, pct_start=0.1)
    waited = 0

    def train() -> float | None:
        """One epoch; its mean loss, None where no batch had any."""
        nonlocal batch
        net.train()
        losses, order = [], data.shuffled(draw, steps * batch)
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            optimizer.zero_grad(set_to_none=True)
            loss, batch = _backward(net, data, rows, device, draw, batch)
            if loss is None:
                continue
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss)
        return float(np.mean(losses)) if losses else None

    for epoch in tqdm(range(1, hyper["epochs"] + 1), desc="training", unit="epoch", disable=not progress):
        train_loss, validation_loss = train(), data.validate(net, device)
        ran_away = train_loss is not None and not math.isfinite(train_loss)
        better = not ran_away and (validation_loss is None or best_loss is None or validation_loss < best_loss)
        waited = 0 if better else waited + 1
        if better:
            best, best_loss = _copy(net), validation_loss
            for row in model.history:
                row["kept"] = False
        model.history.append(
            dict(epoch=epoch, step=epoch * steps, train_loss=train_loss, validation_loss=validation_loss, kept=better)
        )
        if on_epoch:
            on_epoch(model.history[-1])
        if ran_away:
            log.warning(
                "lstm: the loss of epoch %d is no number, so the weights of before are kept: lower finetune.learning_rate, or "
                "model.learning_rate where a network is trained from nothing",
                epoch,
            )
        if ran_away or waited >= hyper["patience"]:
            break
    return best


def _backward(net, data, rows, device, draw, batch):
    """Gradients of one batch, or of its first half when GPU memory does not hold it: (loss or None, batch size that fits)."""
    try:
        loss = data.loss(net, rows, device, draw)
        if loss is None:
            return None, batch
        loss.backward()
        return float(loss.detach()), batch
    except torch.cuda.OutOfMemoryError as error:
        if len(rows) < 2:
            raise LSTMError(
                "out of GPU memory with one series in a step: set model.device: cpu, or a smaller hidden_size"
            ) from error
    batch = len(rows) // 2
    log.warning("lstm: out of GPU memory, batch size halved to %d", batch)
    net.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return _backward(net, data, rows[:batch], device, draw, batch)


def _copy(net) -> dict:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in net.state_dict().items()}


# -------------------------------------------------------------------------------------------------------------- forecasting


@one_thread()
def forecast(model: Model, panel: Panel, horizon: int, quantiles) -> sticky.Outlook:
    """The forecast from the panel's last day, by chunks of series: quantiles that are ordered and never negative.

    NaN for a series without any observation; the plain network says nothing of how likely a change is.
    """
    _reach(model, horizon)
    out = sticky.Outlook.unknown(len(panel), horizon, len(quantiles))
    device, steps, ahead = _device(model.hyper), grid.of(panel), spells.calendar(panel, 1, horizon)[0]
    for rows, part in panel.seen():
        if model.hyper["window"] == "all":
            out.put(rows, mixture(model, part, ahead, steps)[1].outlook(quantiles))
        else:
            out.q[rows] = plain.forecast(model, part, horizon, device)[:, :, None]
    return out


@one_thread()
def mixture(model: Model, panel: Panel, ahead: np.ndarray, grid: Grid | None = None) -> tuple[spells.Posted, sticky.Mixture]:
    """What was read of a panel of series that have all been seen, and the network's two-part forecast from its last day.

    ahead: (H, 7) ``spells.calendar`` of that day, from all series of the shop.
    """
    _reach(model, len(ahead))
    posted, hazard, kinds, _ = forking.decode(model, panel, ahead, _device(model.hyper))
    ladder = sticky.Ladder.of(posted.price[:, -1], posted.levels[:, -1], model.scaling["atoms"], grid)
    return posted, sticky.Mixture(ladder, hazard, kinds)


def _reach(model: Model, horizon: int) -> None:
    if not 1 <= horizon <= model.hyper["forecast_length"]:
        raise LSTMError(
            f"lstm: the model was trained for {model.hyper['forecast_length']} periods ahead and cannot forecast "
            f"{horizon}: train it with forecast_length={horizon}"
        )


@one_thread()
def attention(model: Model, panel: Panel) -> np.ndarray:
    """(N, H, L) how much each of the last L days, oldest first, counts for each day ahead; NaN for a series never seen."""
    if model.hyper["window"] != "all" or not model.hyper["attention"]:
        raise LSTMError("lstm: this model has no attention over days: train it with attention=True, window='all'")
    L, H = model.hyper["sequence_length"], model.hyper["forecast_length"]
    out, device, ahead = np.full((len(panel), H, L), np.nan), _device(model.hyper), spells.calendar(panel, 1, H)[0]
    for rows, part in panel.seen():
        out[rows] = forking.decode(model, part, ahead, device)[3]
    return out


# -------------------------------------------------------------------------------------------------------------- on disk


def save(model: Model, directory) -> None:
    """weights.safetensors and model.json in a directory that is made. Wall-clock seconds stay out: same model, same bytes."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.net.to("cpu").state_dict().items()}, directory / "weights.safetensors")
    text = dict(
        model="lstm",
        **{"class": type(model.net).__name__},
        hyperparameters=model.hyper,
        features=spells.FEATURES,
        scaling={k: np.asarray(v).tolist() for k, v in model.scaling.items()},
        info={k: v for k, v in model.info.items() if k != "seconds"},
        history=model.history,
    )
    write_json(directory / "model.json", text)


def load(directory) -> Model:
    """A model that ``save`` wrote. LSTMError names the file when one is missing, broken, or not of this version."""
    path = Path(directory) / "model.json"
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        hyper, features = text["hyperparameters"], text["features"]
    except FileNotFoundError:
        raise LSTMError(f"{path}: no such file; a model directory has model.json and weights.safetensors") from None
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise LSTMError(f"{path}: not a model description ({error}); train again or restore the directory") from error
    if tuple(features) != spells.FEATURES:
        raise LSTMError(f"{path}: trained on other features than this version reads; train again")
    hyper = _settings(hyper)
    net = _network(hyper)
    weights = Path(directory) / "weights.safetensors"
    try:
        state = load_file(weights)
    except FileNotFoundError:
        raise LSTMError(f"{weights}: no such file; train again or restore the directory") from None
    except SafetensorError as error:
        raise LSTMError(f"{weights}: broken weights ({error}); train again or restore the directory") from error
    if isinstance(net, Forking):
        forking.widen(net, state)
    _fill(net, state, weights)
    scaling = {k: np.asarray(v) for k, v in text["scaling"].items()}
    return Model(net=net.eval(), hyper=hyper, scaling=scaling, history=text["history"], info=text["info"])


def shipped() -> Model:
    """The base network that the package carries, made by ``make pretrain`` from generated price processes alone."""
    return load(BASE)


def load_checkpoint(path, **hyper) -> nn.Module:
    """The network of a foreign ``.pth``: a flat state dict, loaded strictly, nothing in it executed.

    For the plain network: ``attention=False, window="single"``, then ``forward(x (B, L)) -> (B, H)`` in scaled space. With
    ``attention=True`` the plain network's extra weights may be absent: they start at nothing added. LSTMError names the path,
    and the key and both shapes where they differ.
    """
    hyper, path, remedy = _settings(hyper), Path(path), "Save it with torch.save(network.state_dict(), path)"
    if not path.is_file():
        raise LSTMError(
            f"{path}: no such checkpoint file; correct finetune.base (a relative path starts at {Path.cwd()}), or leave it out "
            "to start from the champion"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the formats that are refused below anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        struct.error,
    ) as error:
        said = str(error).splitlines()  # torch's own of a pickle tells how to load it all the same
        reason = said[0][:160] if said and not isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise LSTMError(
            f"{path}: refused, not a plain file of weights (a pickle, a TorchScript archive or a cut-off file is "
            f"never executed): {reason}. {remedy}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise LSTMError(f"{path}: refused, wanted a flat dictionary of tensors. {remedy}")
    net = _network(hyper)
    if hyper["window"] == "single" and hyper["attention"]:
        state = {**{k: v for k, v in net.state_dict().items() if k.startswith("attention.")}, **state}
    _fill(net, state, path)
    return net.eval()


def from_checkpoint(path, **hyper) -> Model:
    """A foreign checkpoint of the plain network as a model that ``forecast`` and ``finetune`` take."""
    hyper = _settings({"attention": False, "window": "single", **hyper})
    if hyper["window"] != "single":
        raise LSTMError(f"{path}: a bare checkpoint has no scaling and serves window='single' only; load a model directory")
    return Model(
        net=load_checkpoint(path, **hyper),
        hyper=hyper,
        info=dict(id=str(path), parent=str(path)),
        history=[dict(epoch=0, step=0, train_loss=None, validation_loss=None, kept=True)],
    )


def _fill(net: nn.Module, state: dict, path) -> None:
    """Strict load: every key, every shape, or an LSTMError that names the first that differs."""
    wanted = net.state_dict()
    hint = "the plain 18-tensor network needs attention=False, window='single'; hidden_size and num_layers must agree too"
    for key, tensor in wanted.items():
        if key not in state:
            raise LSTMError(f"{path}: key {key!r} is missing: shape {tuple(tensor.shape)} wanted, the file has none; {hint}")
        if state[key].shape != tensor.shape:
            raise LSTMError(f"{path}: key {key!r} has shape {tuple(state[key].shape)}, wanted {tuple(tensor.shape)}; {hint}")
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise LSTMError(f"{path}: key {key!r} holds weights that are no numbers: the training that made it had failed")
        if key not in wanted:
            raise LSTMError(f"{path}: unexpected key {key!r} with shape {tuple(tensor.shape)}, this network has none; {hint}")
    net.load_state_dict(state)
