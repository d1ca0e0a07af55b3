"""The sales model: TiDE (Das et al. 2023) as darts has it, made to read and to say counts. Train, fine-tune, forecast, keep.

darts brings the network and the training loop. Here is what it lacks for intermittent sales: windows divided by their own
scale inside the network, heads for counts that stay finite on raw units (``tide_heads``), and whole batches cut from the panel
in place of one window at a time (``tide_data``); settings and files are in ``tide_model``. darts costs 11 s to import, so
``_darts`` does that when a network is built. Only this module imports it, and therefore it is longer than others.

Symbols: N series, T periods, L periods of a window, H periods ahead, B windows, W windows in all, P parameters, Q levels,
E networks of the ensemble.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from . import tide_data, tide_heads
from .counts import Demand
from .lstm import one_thread
from .panel import Panel
from .tide_data import REACH, YEARS, Feed
from .tide_heads import PARAMETERS, quantile_weights
from .tide_model import DEFAULTS, NETWORK, SHAPE, Model, TideError, from_config, load, save, settings

__all__ = [
    "DEFAULTS",
    "NETWORK",
    "SHAPE",
    "Model",
    "TideError",
    "export_onnx",
    "finetune",
    "fit",
    "forecast",
    "from_config",
    "load",
    "quantile_weights",
    "save",
    "settings",
]

FINETUNE = dict(learning_rate=5e-4, epochs=3, max_steps=600, validation_days=8, patience=2)
MOST_STEPS = 32  # whose windows are read at once
LEAST_STEPS = 12  # of a one-cycle: torch divides by zero in a shorter one
CHUNK = 4096  # windows a step where nothing is learnt
CLOSE = 1e-4  # relative difference that an exported network may have


def _device(hyper: dict) -> str:
    if hyper["device"] == "cuda" and not torch.cuda.is_available():
        raise TideError("device is cuda, but torch sees no CUDA device here; set device to auto or cpu")
    return "cuda" if hyper["device"] != "cpu" and torch.cuda.is_available() else "cpu"


# -------------------------------------------------------------------------------------------------------------- on darts


@contextmanager
def _quiet():
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


@cache
def _darts() -> SimpleNamespace:
    """The classes that stand on darts 0.48: the network, its head, its datasets and a callback."""
    with _quiet():
        import pytorch_lightning as lightning
        from darts.models import TiDEModel
        from darts.models.forecasting.tide_model import _TideModule
        from darts.utils.data import TorchInferenceDataset, TorchTrainingDataset
        from darts.utils.data.torch_datasets import utils as batches
        from darts.utils.likelihood_models.base import LikelihoodType
        from darts.utils.likelihood_models.torch import TorchLikelihood

    class Head(TorchLikelihood):
        """A head of ``tide_heads`` where darts wants a likelihood."""

        def __init__(self, hyper: dict):
            self.head, quantile = hyper["head"], hyper["head"] == "quantile"
            self.levels = torch.tensor(hyper["levels"])
            weights = quantile_weights(hyper["levels"], hyper["sigma_left"], hyper["sigma_right"])
            self.weights = None if (weights == 1).all() else torch.tensor(weights, dtype=torch.float32)
            names = [f"q{level}" for level in hyper["levels"]] if quantile else PARAMETERS[self.head]
            super().__init__(LikelihoodType.Quantile if quantile else LikelihoodType.NegativeBinomial, list(names))

        def compute_loss(self, raw, target, sample_weight):
            if self.head == "quantile":
                weights = None if self.weights is None else self.weights.to(raw)
                loss = tide_heads.pinball_loss(raw, target, self.levels.to(raw), weights)
            else:
                loss = tide_heads.count_loss(raw, target, self.head)
            return loss.mean() if sample_weight is None else (loss * sample_weight).mean()

        def _params_from_output(self, raw):
            return tide_heads.said(raw, self.head)

        def _distr_from_params(self, params):
            raise NotImplementedError("forecasts are read off the parameters, not sampled")

        def sample(self, raw):
            raise NotImplementedError("forecasts are read off the parameters, not sampled")

    class Scaled(_TideModule):
        """darts' TiDE between the scale of the window: raw counts in, parameters of raw counts out."""

        def prepare(self, hyper: dict, stats: dict):
            self.scaled, self.quantile = hyper["window_scale"], hyper["head"] == "quantile"
            self.step_size, self.clip, self.automatic_optimization = hyper["batch_size"], hyper["gradient_clip"], False
            for name, values in stats.items():
                self.register_buffer(name, values)

        def forward(self, x):
            if not self.scaled:
                return super().forward(x.replace(past_target=torch.nan_to_num(x.past_target)))
            log_scale = x.static_covariates[:, :, :1]  # (B, 1, 1)
            static = ((x.static_covariates - self.static_mean) / self.static_std).clamp(-REACH, REACH)  # (B, 1, C + S)
            parts = dict(past_target=_relative(x.past_target, log_scale), static_covariates=static)
            for name in ("historic_future_covariates", "future_covariates"):
                if (values := getattr(x, name)) is not None:  # (B, L or H, YEARS + CALENDAR + F)
                    year = _relative(values[..., :YEARS], log_scale)
                    parts[name] = torch.cat([year, torch.nan_to_num(values[..., YEARS:])], dim=2)
            out = super().forward(x.replace(**parts))
            return out.replace(prediction=tide_heads.unscale(out.prediction, log_scale[..., None], self.quantile))

        def loss_of(self, batch):
            output = self(batch.to_module_input())
            return self._compute_loss(output, batch.future_target, None, batch.sample_weight)

        def training_step(self, batch, batch_idx):
            """Many steps of ``batch_size`` windows in one call: Lightning's own part of a step costs a quarter of it."""
            optimizer, clock = self.optimizers(use_pl_optimizer=False), self.trainer.lr_scheduler_configs[0]
            parts = {f.name: getattr(batch, f.name) for f in fields(batch) if getattr(batch, f.name) is not None}
            parts = {name: tensor.split(self.step_size) for name, tensor in parts.items()}
            losses, weights = [], list(self.parameters())
            flat, slopes = _flat(optimizer, weights), [weight.grad for weight in weights]
            for some in zip(*parts.values(), strict=True):
                flat.grad.zero_()
                loss = self.loss_of(batches.TorchTrainingBatch(**dict(zip(parts, some, strict=True))))
                loss.backward()
                if self.clip:
                    norm = torch.nn.utils.get_total_norm(slopes)  # tensor by tensor, as darts takes it: the same bits
                    torch.nn.utils.clip_grads_with_norm_(flat, self.clip, norm)
                optimizer.step()
                if clock.interval == "step":
                    clock.scheduler.step()
                losses.append(loss.detach())
            return {"losses": torch.stack(losses)}

        def on_train_epoch_end(self):
            clock = self.trainer.lr_scheduler_configs[0]
            if clock.interval == "epoch":  # that of averaged weights
                clock.scheduler.step()

    class Tide(TiDEModel):
        """``prepared``: settings and statistics for the network that darts will build."""

        prepared: tuple

        def _create_model(self, sample):
            module = super()._create_model(sample)
            module.__class__ = Scaled  # darts names its own class when it builds; ours has the same layers
            module.prepare(*self.prepared)
            return module

    class Windows(TorchTrainingDataset):
        """Windows (W,) of a feed with their targets. A loader that asks for rows at once is given the batch at once."""

        def __init__(self, feed: Feed, series: torch.Tensor, origin: torch.Tensor):
            super().__init__()
            self.feed, self.series, self.origin = feed, series, origin

        def __len__(self):
            return len(self.series)

        def __getitems__(self, rows):
            rows = torch.as_tensor(rows)
            return batches.TorchTrainingBatch(**self.feed.batch(self.series[rows], self.origin[rows]))

        def __getitem__(self, row):
            return batches.TorchTrainingSample(**_single(self.feed.batch(self.series[[row]], self.origin[[row]])))

    class Latest(TorchInferenceDataset):
        """The windows of some series that end with the panel."""

        def __init__(self, feed: Feed, series: torch.Tensor):
            super().__init__()
            self.feed, self.series, self.origin = feed, series, torch.full_like(series, feed.periods - 1)

        def __len__(self):
            return len(self.series)

        def __getitems__(self, rows):
            given, nothing = self.feed.batch(self.series[rows], self.origin[rows], targets=False), [None] * len(rows)
            return batches.TorchInferenceBatch(**given, series_schema=nothing, pred_time=nothing)

        def __getitem__(self, row):
            return batches.TorchInferenceSample(
                **_single(self.feed.batch(self.series[[row]], self.origin[[row]], targets=False))
            )

    class Exported(torch.nn.Module):
        """The networks of an ensemble in one: the tensors of a batch in, parameters (E, B, H, P) out."""

        def __init__(self, nets, head: str, names: list):
            super().__init__()
            self.nets, self.head, self.names = torch.nn.ModuleList(nets), head, names

        def forward(self, *tensors):
            x = batches.PLModuleInput(**dict(zip(self.names, tensors, strict=True)))
            said = [torch.stack(tide_heads.said(net(x).prediction, self.head), dim=-1) for net in self.nets]
            return torch.stack(said)[:, :, :, 0]  # (E, B, H, P)

    class Recorder(lightning.Callback):
        """Writes the history, notes which epoch was best, and ends the training when patience does."""

        def __init__(self, validate=None, patience: int = 1, on_epoch=None, start: float | None = None):
            self.validate, self.patience, self.on_epoch = validate, patience, on_epoch
            self.best = math.inf if start is None else start
            self.history, self.losses, self.steps, self.waited, self.kept = [], [], 0, 0, 0

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.losses.append(outputs["losses"])

        def on_train_epoch_end(self, trainer, module):
            epoch, loss = len(self.history) + 1, torch.cat(self.losses)
            valid, self.losses = self.validate(module) if self.validate else None, []
            self.steps += len(loss)
            better = valid is None or valid < self.best
            self.waited = 0 if better else self.waited + 1
            if better:
                self.kept, self.best = epoch, valid if valid is not None else self.best
            self.history.append(dict(epoch=epoch, step=self.steps, train_loss=float(loss.mean()), validation_loss=valid))
            if self.on_epoch:
                self.on_epoch(self.history[-1])
            if self.waited >= self.patience:
                trainer.should_stop = True

    return SimpleNamespace(
        **{k: v for k, v in locals().items() if k in ("Head", "Tide", "Windows", "Latest", "Exported", "Recorder")},
        lightning=lightning,
    )


def _flat(optimizer: torch.optim.Optimizer, weights: list) -> torch.nn.Parameter:
    """One long weight in the optimizer, of which all others are views, and their gradients views of its.

    Clipping and a step are then one operation each, not one for each of forty small tensors.
    """
    (group,), sizes = optimizer.param_groups, [weight.numel() for weight in weights]
    if len(group["params"]) > 1:
        flat = torch.nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights]))
        for weight, value in zip(weights, flat.detach().split(sizes), strict=True):
            weight.data = value.view_as(weight)
        group["params"] = [flat]
    (flat,) = group["params"]
    flat.grad = torch.zeros_like(flat)
    for weight, slope in zip(weights, flat.grad.split(sizes), strict=True):  # each time: Lightning drops them between epochs
        weight.grad = slope.view_as(weight)
    return flat


def _single(batch: dict) -> dict:
    return {name: tensor[0].numpy() for name, tensor in batch.items()}


def _relative(counts: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Counts (B, L, K) over the scale (B, 1, 1), as log1p; what is not known reads as the scale itself."""
    return torch.log1p(torch.where(torch.isnan(counts), 1.0, counts.clamp(min=0) * torch.exp(-log_scale)))


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
    quiet = ("logger", "enable_checkpointing", "enable_model_summary")
    tide = _darts().Tide(
        input_chunk_length=hyper["sequence_length"],
        output_chunk_length=hyper["forecast_length"],
        **{name: hyper[name] for name in (*NETWORK, "dropout", "batch_size")},
        likelihood=_darts().Head(hyper),
        optimizer_cls=torch.optim.AdamW,
        optimizer_kwargs=dict(lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"], fused=True),
        lr_scheduler_cls=rates,
        lr_scheduler_kwargs=dict(how, interval="step"),
        n_epochs=epochs,
        random_state=seed,
        pl_trainer_kwargs=dict(
            accelerator="gpu" if _device(hyper) == "cuda" else "cpu",
            devices=1,
            limit_train_batches=chunks,
            enable_progress_bar=progress,
            callbacks=list(callbacks),
            **dict.fromkeys(quiet, False),
        ),
    )
    tide.prepared = hyper, stats
    return tide


def built(hyper: dict, scaling: dict, state: dict, **named):
    """The darts model of a network of an ensemble, ready to forecast or to be trained on."""
    stats = {name: state[name] for name in ("static_mean", "static_std") if name in state}
    tide, nobody = network(hyper, stats, **named), torch.zeros(1, dtype=torch.long)
    tide.train_sample, tide.output_dim = _darts().Windows(tide_data.blank(hyper, scaling), nobody, nobody)[0], 1
    tide.model = tide._init_model()
    try:
        tide.model.load_state_dict(state)
    except RuntimeError as error:
        raise TideError(f"tide: these weights are not of this network: {' '.join(str(error).split())[:300]}") from None
    tide._fit_called = True
    return tide


# -------------------------------------------------------------------------------------------------------------- training


def fit(panel: Panel, *, progress: bool = False, on_epoch=None, **hyper) -> Model:
    """A new model of ``seeds`` networks, trained on every window of the panel up to its as-of date.

    In two phases where ``validation_days`` asks for it: the first network is trained without the last so many periods, which
    tell the epoch to stop at; then all are trained on everything for as long, along the same schedule. hyper: see
    ``DEFAULTS``; an unknown name is a TypeError. Same panel, settings and machine give the same bits. ``on_epoch`` is called
    with each row of ``history``.
    """
    hyper = settings(hyper)
    year, T = tide_data.season(panel.freq), len(panel.dates)
    if hyper["seasonal"] is None:
        hyper["seasonal"] = bool(hyper["window_scale"] and year and year + 2 * hyper["sequence_length"] <= T)
    if hyper["seasonal"] and hyper["forecast_length"] >= year:
        raise TideError(f"tide: seasonal looks a year back and cannot serve forecast_length {hyper['forecast_length']}")
    if not hyper["window_scale"] and (hyper["covariates"] or hyper["seasonal"] or hyper["static_covariates"]):
        raise TideError("tide: without window_scale the network reads raw counts and no covariates")
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
    with _quiet():
        feed = tide_data.feed(panel, hyper, model.scaling)
        windows = feed.windows(first, T - 1)
        if not len(windows[0]):
            raise TideError(
                f"tide: nothing to learn from in {T} periods of {len(panel)} series: a window needs {tide_data.LEAST} periods "
                f"of an item's life and {hyper['forecast_length']} (forecast_length) after them"
            )
        unseen = int((panel.dates > np.datetime64(model.info.get("trained_until", "0001-01-01"), "D")).sum())
        kept = _search(model, feed, first, unseen, progress, on_epoch)
        if kept:
            for k, state in enumerate(model.states):
                recorder = _darts().Recorder(on_epoch=None if model.history else on_epoch)
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
        device=_device(hyper),
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
        start = judge(built(hyper, model.scaling, model.states[0]).model)
        model.history = [dict(epoch=0, step=0, train_loss=None, validation_loss=start)]
    recorder = _darts().Recorder(judge, hyper["patience"], on_epoch, start)
    _run(model, feed, train, 0, model.states[0], hyper["epochs"], [recorder], progress)
    model.history = model.history + recorder.history
    return recorder.kept


def _run(model: Model, feed: Feed, windows, k: int, state, epochs: int, callbacks, progress):
    """The k-th network, trained on windows (W,) from its state or from nothing."""
    hyper, data = model.hyper, _darts().Windows(feed, *windows)
    every, most = math.ceil(len(data) / hyper["batch_size"]), max(1, hyper["max_steps"] // hyper["epochs"])
    chunks = math.ceil(min(every, most) / MOST_STEPS)
    together = math.ceil(every / chunks) if every <= most else most // chunks  # steps in a chunk
    steps = min(every, together * chunks)
    named = dict(seed=hyper["seed"] + k, epochs=epochs, steps=steps, chunks=chunks, callbacks=callbacks, progress=progress)
    if state is None:
        net = network(hyper, tide_data.statistics(feed, *windows), **named)
    else:
        net = built(hyper, model.scaling, state, **named)
    torch.set_flush_denormal(True)  # Adam's second moments of weights that are not used fall below 1e-38, where a CPU is slow
    try:
        return net.fit_from_dataset(data, dataloader_kwargs=dict(LOADER, batch_size=together * hyper["batch_size"]))
    finally:
        torch.set_flush_denormal(False)


def _averaging(hyper: dict, epochs: int) -> list:
    """Lightning's averaging of weights (Izmailov et al. 2018), where it is asked for and there are epochs to average."""
    if hyper["swa_start"] is None or epochs < 2:
        return []
    return [_darts().lightning.callbacks.StochasticWeightAveraging(hyper["swa_lr"], hyper["swa_start"], annealing_epochs=1)]


def _judge(feed: Feed, windows):
    """A function of a network: its mean loss over windows (W,)."""
    data = _darts().Windows(feed, *windows)

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
    with _quiet():
        data = _darts().Latest(tide_data.feed(panel, hyper, model.scaling), torch.from_numpy(rows))
        said = [_said(built(hyper, model.scaling, state), data)[:, :horizon] for state in model.states]
    got = tide_heads.demand(said, hyper["head"], hyper["levels"], quantiles)
    for whole, part in ((out.q, got.q), (out.mean, got.mean), (out.zero, got.zero)):
        whole[rows] = part
    return out


def _said(net, data) -> np.ndarray:
    """Parameters (B, H, P) of a network for the last window of each series."""
    asked = dict(n=net.output_chunk_length, predict_likelihood_parameters=True, values_only=True, batch_size=CHUNK)
    return net.predict_from_dataset(dataset=data, dataloader_kwargs=dict(LOADER), **asked)[0][..., 0]


# -------------------------------------------------------------------------------------------------------------- exported


@one_thread()
def export_onnx(model: Model, path) -> float:
    """The ensemble as one ONNX file: inputs as ``Feed.batch`` names them, any number of windows B; output (E, B, H, P).

    onnxruntime's answer is compared with torch's before it is believed: returns the largest relative difference, and raises a
    TideError that names it, leaving no file, where it is above ``CLOSE``.
    """
    import onnxruntime

    path = Path(path)
    with _quiet():
        nets = [built(model.hyper, model.scaling, state).model.eval() for state in model.states]
        example = tide_data.invented(model.hyper, model.scaling, 8)
        names, tensors = list(example), tuple(example.values())
        exported = _darts().Exported(nets, model.hyper["head"], names)
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
