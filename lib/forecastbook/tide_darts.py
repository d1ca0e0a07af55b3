"""darts' TiDE, made to read and to say counts: the network, its head, its batches and a callback; and how it is built, with
its optimizer and its trainer. The only importer of darts, which takes 11 s: to be imported by ``tide.nets`` alone.

darts (0.48) brings the network and Lightning the loop. Here is what they lack for intermittent sales: windows divided by their
own scale inside the network, heads for counts that stay finite on raw units (``tide_heads``), and whole batches cut from the
panel in place of one window at a time (``tide_data``).

Symbols: B windows, W windows in all, L periods of a window, H periods ahead, P parameters, E networks of the ensemble.
"""

from __future__ import annotations

import math
from dataclasses import fields

import pytorch_lightning as lightning
import torch
from darts.models import TiDEModel
from darts.models.forecasting.tide_model import _TideModule
from darts.utils.data import TorchInferenceDataset, TorchTrainingDataset
from darts.utils.data.torch_datasets import utils as batches
from darts.utils.likelihood_models.base import LikelihoodType
from darts.utils.likelihood_models.torch import TorchLikelihood

from . import tide_data, tide_heads
from .tide_data import REACH, YEARS, Feed
from .tide_heads import PARAMETERS, quantile_weights
from .tide_model import NETWORK, TideError

LEAST_STEPS = 12  # of a one-cycle: torch divides by zero in a shorter one


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
        return batches.TorchInferenceSample(**_single(self.feed.batch(self.series[[row]], self.origin[[row]], targets=False)))


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


# ---- built ----------------------------------------------------------------------------------------------------------------


def device(hyper: dict) -> str:
    if hyper["device"] == "cuda" and not torch.cuda.is_available():
        raise TideError("device is cuda, but torch sees no CUDA device here; set device to auto or cpu")
    return "cuda" if hyper["device"] != "cpu" and torch.cuda.is_available() else "cpu"


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
    tide = Tide(
        input_chunk_length=hyper["sequence_length"],
        output_chunk_length=hyper["forecast_length"],
        **{name: hyper[name] for name in (*NETWORK, "dropout", "batch_size")},
        likelihood=Head(hyper),
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
    tide.train_sample, tide.output_dim = Windows(tide_data.blank(hyper, scaling), nobody, nobody)[0], 1
    tide.model = tide._init_model()
    try:
        tide.model.load_state_dict(state)
    except RuntimeError as error:
        raise TideError(f"tide: these weights are not of this network: {' '.join(str(error).split())[:300]}") from None
    tide._fit_called = True
    return tide
