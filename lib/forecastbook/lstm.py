"""The price model: an encoder LSTM, a decoder with attention, and a two-part distribution over posted prices. Plain torch.

``window="all"`` (the default): the encoder runs once over a crop of days and forecasts are trained from every origin in it
(forking sequences: Wen et al. 2017, A Multi-Horizon Quantile Recurrent Forecaster). The decoder looks back over the last
``sequence_length`` encoder states and gives, per day ahead, the log odds that the price differs and the log odds of 25 kinds of
change (``sticky``). ``window="single"``: the plain sequence-to-sequence network on min-max scaled prices, so that an existing
``lstm_forecaster.pth`` loads strictly and gives its own numbers; it is a point forecast, so all its quantiles are equal.

Symbols: N series, T days, H days ahead, K features, B crops in a batch, C days in a crop, L sequence length, D hidden size,
S scored origins in a crop, Q quantiles.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import sticky
from .panel import Panel

log = logging.getLogger(__name__)

DEFAULTS = dict(
    sequence_length=30,     # days that the decoder looks back over
    forecast_length=7,      # days ahead that are trained for: the most that can be forecast
    hidden_size=128,
    num_layers=2,
    batch_size=64,          # crops a step: oneDNN is fastest at 64 to 256
    learning_rate=1e-3,     # peak of the one-cycle schedule
    epochs=10,
    attention=True,
    window="all",
    dropout=0.1,
    weight_decay=1e-4,
    max_steps=400,          # of all epochs together: ends a cold start in well under a minute on two cores
    patience=5,             # epochs without a better validation loss
    validation_days=28,     # the last days, whose prices are never a training target
    train_days=None,        # origins of the last so many days only
    seed=0,
    device="auto",
)
FINETUNE = dict(learning_rate=5e-4, train_days=60, validation_days=14, max_steps=200)
LIFE, GAP = 20, 14          # an origin is trained on when its series is this old and was seen this lately
CLIP = 4.0                  # standard deviations
CALENDAR = 5                # horizon features
ASKED = 3                   # horizons drawn for each origin in a step: the classes of one origin's horizons nearly agree
MAX_DAYS = 2_500_000        # series-days held as features (300 MB); above it a seeded sample of the series is trained on
CHUNK = 1024                # series at a time in reading and forecasting


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


# ---------------------------------------------------------------------------------------------------------------- networks


class Forking(nn.Module):
    """Encoder LSTM over daily features; a decoder that attends to its last L states, asked by horizon."""

    def __init__(self, hyper: dict, features: int = len(sticky.FEATURES)):
        super().__init__()
        D, H, width = hyper["hidden_size"], hyper["forecast_length"], 64
        self.length, self.attends = hyper["sequence_length"], hyper["attention"]
        self.encoder = nn.LSTM(features, D, hyper["num_layers"], batch_first=True,
                               dropout=hyper["dropout"] if hyper["num_layers"] > 1 else 0.0)
        self.from_state = nn.Linear(D, D)
        self.from_features = nn.Linear(features, D, bias=False)
        self.from_calendar = nn.Linear(CALENDAR, D, bias=False)
        if self.attends:
            self.query, self.ask = nn.Linear(D, 32), nn.Linear(CALENDAR, 32, bias=False)
            self.key, self.value = nn.Linear(D, 32, bias=False), nn.Linear(D, D, bias=False)
            nn.init.zeros_(self.value.weight)          # attention starts as nothing added
        self.hidden = nn.Linear(D, width)
        self.out = nn.Linear(width, sticky.CLASSES + 1)
        self.hazard = nn.Parameter(torch.full((H,), -6.0))         # log odds of a change by h before anything is known
        self.dropout = nn.Dropout(hyper["dropout"])
        with torch.no_grad():
            self.out.weight.mul_(0.1)                  # starts near the pooled rates: "the last price"
            self.out.bias.zero_()

    def forward(self, x, position, calendar, horizon):
        """x: (B, C, K). position: (S,) days of the crop to forecast from. calendar: (B, S, P, CALENDAR) of P horizons each.
        horizon: (B, S, P) counted from 0. Returns hazard logits (B, S, P), class logits (B, S, P, A), attention (B, S, P, C).
        """
        states, _ = self.encoder(x)                                                        # (B, C, D)
        state, weights = self.dropout(states[:, position]), None                           # (B, S, D)
        mixed = (self.from_state(state) + self.from_features(x[:, position]))[:, :, None]
        mixed = mixed + self.from_calendar(calendar)                                       # (B, S, P, D)
        if self.attends:
            ask = (self.query(state)[:, :, None] + self.ask(calendar)) / math.sqrt(self.query.out_features)
            score = ask.flatten(1, 2) @ self.key(states).transpose(1, 2)                   # (B, S * P, C)
            back = position[:, None] - torch.arange(x.shape[1], device=x.device)           # (S, C) days before the origin
            outside = torch.zeros(back.shape, device=x.device).masked_fill((back < 0) | (back >= self.length), -torch.inf)
            weights = (score.unflatten(1, ask.shape[1:3]) + outside[:, None]).softmax(dim=-1)              # (B, S, P, C)
            seen = weights.to(states.dtype).flatten(1, 2) @ self.value(states)             # (B, S * P, D)
            mixed = mixed + seen.unflatten(1, ask.shape[1:3])
        out = self.out(F.gelu(self.hidden(F.gelu(mixed)))).float()                         # (B, S, P, A + 1)
        return out[..., 0] + self.hazard[horizon], out[..., 1:], weights


class Plain(nn.Module):
    """Encoder LSTM, decoder LSTM that feeds back its own output, linear head: 18 tensors. Attention is an extra, zero at first."""

    def __init__(self, hyper: dict):
        super().__init__()
        D, layers, self.steps = hyper["hidden_size"], hyper["num_layers"], hyper["forecast_length"]
        self.encoder = nn.LSTM(1, D, layers, batch_first=True)
        self.decoder = nn.LSTM(1, D, layers, batch_first=True)
        self.linear = nn.Linear(D, 1)
        self.attention = nn.Linear(D, D, bias=False) if hyper["attention"] else None
        if self.attention is not None:
            nn.init.zeros_(self.attention.weight)

    def forward(self, x):
        """x: (B, L) scaled prices. Returns (B, H) scaled."""
        states, memory = self.encoder(x[:, :, None])                                       # (B, L, D)
        value, out = x[:, -1:, None], []                                                   # (B, 1, 1)
        for _ in range(self.steps):
            state, memory = self.decoder(value, memory)                                    # (B, 1, D)
            if self.attention is not None:
                weights = (state @ states.transpose(1, 2) / math.sqrt(state.shape[-1])).softmax(dim=-1)
                state = state + self.attention(weights @ states)
            value = self.linear(state)
            out.append(value)
        return torch.cat(out, dim=1)[:, :, 0]                                              # (B, H)


def _network(hyper: dict) -> nn.Module:
    return Forking(hyper) if hyper["window"] == "all" else Plain(hyper)


def _settings(given: dict, base: dict = DEFAULTS) -> dict:
    """Hyperparameters over their defaults. TypeError on an unknown name, LSTMError on a value out of range."""
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise TypeError(f"lstm has no hyperparameter {unknown[0]!r}: it knows {', '.join(DEFAULTS)}")
    hyper = {**base, **given}
    whole = ("sequence_length", "forecast_length", "hidden_size", "num_layers", "batch_size", "epochs", "max_steps", "patience")
    for name in whole:
        if not isinstance(hyper[name], int) or hyper[name] < 1:
            raise LSTMError(f"lstm: {name} must be a whole number of at least 1, got {hyper[name]!r}")
    if hyper["window"] not in ("all", "single"):
        raise LSTMError(f"lstm: window must be 'all' or 'single', got {hyper['window']!r}")
    return hyper


def _device(hyper: dict) -> torch.device:
    name = hyper["device"]
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _autocast(device: torch.device):
    """bfloat16 where the processor has tiles for it (3 times faster there), float32 elsewhere."""
    fast = device.type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


# ------------------------------------------------------------------------------------------------------------ panel to tensors


def _read(panel: Panel, keep: int) -> sticky.Posted:
    """``sticky.read`` of a panel by chunks of series, the last ``keep`` days."""
    listed = panel.past[:, :, panel.past_names.index("list_price")] if "list_price" in panel.past_names else None
    parts = [sticky.read(panel.y[i:i + CHUNK], None if listed is None else listed[i:i + CHUNK], keep)
             for i in range(0, len(panel), CHUNK)]
    return sticky.Posted(*(np.concatenate([getattr(p, name) for p in parts])
                           for name in ("price", "features", "levels", "life", "gap")))


def _calendar(panel: Panel, keep: int, horizon: int) -> np.ndarray:
    """(keep, H, CALENDAR) float32: h, Mondays in (t, t + h], target is a Monday, on a weekend, a Friday."""
    weekday = (np.concatenate([panel.dates, panel.horizon_dates(horizon)]).astype("datetime64[D]").astype(int) + 3) % 7
    target = np.arange(len(panel.dates) - keep, len(panel.dates))[:, None] + np.arange(1, horizon + 1)         # (keep, H)
    monday = np.cumsum(weekday == 0)
    passed = monday[target] - monday[target[:, 0] - 1][:, None]
    day = weekday[target]
    h = np.broadcast_to(np.arange(1, horizon + 1) / 7, target.shape)
    return np.stack([h, passed, day == 0, day >= 5, day == 4], axis=2).astype(np.float32)


def _scaled(posted: sticky.Posted, scaling: dict) -> np.ndarray:
    """Features in training standard deviations, clipped, 0 before a series begins: (N, C, K) float32."""
    x = np.clip((posted.features - scaling["mean"]) / scaling["std"], -CLIP, CLIP).astype(np.float32)
    x[posted.life == 0] = 0
    return x


def _targets(panel: Panel, posted: sticky.Posted, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios (N, C, H) float32 and classes (N, C, H) int8 of what came after each day; -1 where that is not to be scored."""
    N, C = posted.price.shape
    start = len(panel.dates) - C
    ratio = np.full((N, C, horizon), np.nan, dtype=np.float32)
    classes = np.full((N, C, horizon), -1, dtype=np.int8)
    eligible, candidates = (posted.life >= LIFE) & (posted.gap <= GAP), posted.ratios
    for h in range(1, min(horizon, C - 1) + 1):
        with np.errstate(invalid="ignore"):
            ahead = np.log(panel.y[:, start + h:] / posted.price[:, :-h])                  # (N, C - h)
        ahead[~eligible[:, :-h]] = np.nan
        ratio[:, :-h, h - 1] = ahead
        classes[:, :-h, h - 1] = sticky.classify(ahead, candidates[:, :-h])
    return ratio, classes


# ---------------------------------------------------------------------------------------------------------------- training


def fit(panel: Panel, *, progress: bool = False, **hyper) -> Model:
    """A new model, trained on every origin of the panel whose targets lie before the last ``validation_days``.

    hyper: see ``DEFAULTS``; an unknown name is a TypeError. Same panel, settings and machine give the same bytes. A panel with
    nothing to train on gives the model that says "the last price".
    """
    hyper = _settings(hyper)
    with torch.random.fork_rng():
        torch.manual_seed(hyper["seed"])
        model = Model(net=_network(hyper), hyper=hyper)
        return _train(model, panel, parent=None, progress=progress)


def finetune(model: Model, panel: Panel, *, parent: str | None = None, progress: bool = False, **hyper) -> Model:
    """A new model that starts from ``model`` and is trained on the origins of the last ``train_days`` (default 60).

    The epoch with the best loss on the held-out last ``validation_days`` (default 14) is kept; when none is better than the
    start, the start's weights are. Scaling stays as it was. ``model`` is left as it is. Shape settings cannot be changed here.
    """
    shape = ("hidden_size", "num_layers", "attention", "window", "sequence_length", "forecast_length")
    for name in shape:
        if name in hyper and hyper[name] != model.hyper[name]:
            raise LSTMError(f"lstm: {name} is {model.hyper[name]!r} in the model to fine-tune and cannot become {hyper[name]!r}")
    hyper = _settings(hyper, {**model.hyper, **FINETUNE})
    with torch.random.fork_rng():
        torch.manual_seed(hyper["seed"])
        net = _network(hyper)
        net.load_state_dict(model.net.state_dict())
        child = Model(net=net, hyper=hyper, scaling=dict(model.scaling))
        return _train(child, panel, parent=parent or model.info.get("id", "given model"), progress=progress)


def _train(model: Model, panel: Panel, parent, progress) -> Model:
    began = time.perf_counter()
    hyper, T = model.hyper, len(panel.dates)
    device = _device(hyper)
    held = min(hyper["validation_days"], T // 4)           # a short panel keeps most of its days for training
    prepare = _forking_data if hyper["window"] == "all" else _plain_data
    data = prepare(model, panel, held, cold=parent is None)
    model.net.to(device)
    best = _loop(model, data, device, progress)
    model.net.load_state_dict(best)
    model.net.to("cpu").eval()
    model.info = dict(
        trained_from=str(panel.dates[max(0, T - (hyper["train_days"] or T))]), trained_until=str(panel.dates[T - 1 - held]),
        as_of=str(panel.as_of), n_series=len(panel), n_origins=data.n_origins, parent=parent, device=str(device),
        parameters=sum(p.numel() for p in model.net.parameters()), kept_epoch=next(h["epoch"] for h in model.history if h["kept"]),
        seconds=round(time.perf_counter() - began, 2))
    return model


def _loop(model: Model, data, device, progress) -> dict:
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
    optimizer = torch.optim.AdamW(net.parameters(), lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"])
    total = steps * hyper["epochs"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, hyper["learning_rate"], total_steps=total + 1, pct_start=0.1)
    waited = 0
    for epoch in tqdm(range(1, hyper["epochs"] + 1), desc="training", unit="epoch", disable=not progress):
        net.train()
        losses, order = [], data.shuffled(draw, steps * batch)
        for step in range(steps):
            rows = order[step * batch:(step + 1) * batch]
            optimizer.zero_grad(set_to_none=True)
            loss, batch = _backward(net, data, rows, device, draw, batch)
            if loss is None:
                continue
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss)
        train_loss, validation_loss = float(np.mean(losses)) if losses else None, data.validate(net, device)
        better = validation_loss is None or best_loss is None or validation_loss < best_loss
        waited = 0 if better else waited + 1
        if better:
            best, best_loss = _copy(net), validation_loss
            for row in model.history:
                row["kept"] = False
        model.history.append(dict(epoch=epoch, step=epoch * steps, train_loss=train_loss, validation_loss=validation_loss,
                                  kept=better))
        if waited >= hyper["patience"]:
            break
    return best


def _backward(net, data, rows, device, draw, batch):
    """Gradients of one batch; when a GPU's memory does not hold it, of its halves. Returns (loss or None, batch size that fitted)."""
    try:
        with _autocast(device):
            loss = data.loss(net, rows, device, draw)
        if loss is None:
            return None, batch
        loss.backward()
        return float(loss.detach()), batch
    except torch.cuda.OutOfMemoryError:
        if len(rows) < 2:
            raise
    batch = len(rows) // 2
    log.warning("lstm: out of GPU memory, batch size halved to %d", batch)
    net.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return _backward(net, data, rows[:batch], device, draw, batch)


def _copy(net) -> dict:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in net.state_dict().items()}


class _Forks:
    """Crops of days with all their origins: L days to warm up, then S scored days."""

    least = 25      # steps an epoch at least: a small panel is passed over more than once

    def __init__(self, net_hyper, x, classes, masked, calendar, train_from, train_until):
        L = net_hyper["sequence_length"]
        self.scored, self.length = 2 * L, 3 * L
        N, C, _ = x.shape
        pad = ((0, 0), (L, self.length))
        self.x = torch.from_numpy(np.pad(x, (*pad, (0, 0))))                               # (N, L + C + 3L, K)
        classes = np.pad(classes, (*pad, (0, 0)), constant_values=-1)
        self.masked = torch.from_numpy(np.pad(masked, (*pad, (0, 0)), constant_values=True))
        self.calendar = torch.from_numpy(np.pad(calendar, (*pad[1:], (0, 0), (0, 0))))
        H = classes.shape[2]
        # a training target lies at or before train_until, counted in columns of x; later ones are for validation
        day = np.arange(classes.shape[1])[:, None] - L
        train = (day >= train_from) & (day + np.arange(1, H + 1) <= train_until)           # (days, H)
        self.train = torch.from_numpy(np.where(train, classes, -1))
        self.validation = torch.from_numpy(np.where(day > train_until, classes, -1))
        self.any_train = (self.train >= 0).any(dim=2).numpy()                              # (N, days)
        self.n_origins = int(self.any_train.sum())
        self.first, self.until, self.columns = train_from, train_until, C
        self.size = N * math.ceil(max(1, train_until - max(train_from, 0)) / self.scored) if self.n_origins else 0

    def shuffled(self, draw, count):
        """(count, 2) series and first scored column of crops that tile the training days, from a random offset."""
        out = []
        while sum(map(len, out)) < count:
            starts = np.arange(max(self.first, 0) - draw.integers(self.scored), self.until, self.scored)
            starts = np.maximum(starts, 0)                                                 # the left padding is L days
            total = np.pad(np.cumsum(self.any_train, axis=1), ((0, 0), (1, 0)))
            L = self.length - self.scored
            filled = total[:, np.minimum(starts + L + self.scored, total.shape[1] - 1)] - total[:, starts + L] > 0
            series, block = np.nonzero(filled)
            pairs = np.stack([series, starts[block]], axis=1)
            out.append(draw.permutation(pairs))
        return np.concatenate(out)[:count]

    def _crop(self, a, series, start, width):
        return a[series[:, None], start[:, None] + torch.arange(width)]                    # (B, width, ...)

    def loss(self, net, rows, device, draw):
        """Mean negative log probability of what came, a few random horizons an origin."""
        series, start = torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1])
        L, S, H = self.length - self.scored, self.scored, self.train.shape[2]
        x = self._crop(self.x, series, start, self.length)                                 # (B, C, K)
        target = self._crop(self.train, series, start + L, S)                              # (B, S, H)
        masked = self._crop(self.masked, series, start + L, S)
        h = torch.from_numpy(draw.random((len(rows), S, H)).argsort(axis=2)[:, :, :ASKED].copy())          # (B, S, P)
        target = target.gather(2, h)
        if not (target >= 0).any():
            return None
        calendar = self.calendar[start[:, None] + L + torch.arange(S)]                     # (B, S, H, CALENDAR)
        calendar = calendar.gather(2, h[..., None].expand(-1, -1, -1, CALENDAR))
        position = torch.arange(S) + L
        hazard, kinds, _ = net(x.to(device), position.to(device), calendar.to(device), h.to(device))
        return _nll(hazard, kinds, target.to(device), masked[:, :, None].to(device))

    @torch.no_grad()
    def validate(self, net, device):
        """Mean negative log probability at the held-out origins, every horizon; None without any."""
        if not (self.validation >= 0).any():
            return None
        net.eval()
        L, S, H = self.length - self.scored, self.columns - 1 - self.until, self.train.shape[2]
        start = self.until + 1 - L                              # warm up on 2 L days, as in forecasting
        total, count = 0.0, 0
        for i in range(0, len(self.x), 256):
            part = slice(i, i + 256)
            target = self.validation[part, self.until + 1 + L:self.until + 1 + L + S]      # (B, S, H)
            x = self.x[part, max(start, 0):self.until + 1 + L + S]
            position = torch.arange(x.shape[1] - S, x.shape[1])
            calendar = self.calendar[self.until + 1 + L:self.until + 1 + L + S].expand(len(x), S, H, CALENDAR)
            horizon = torch.arange(H).expand(len(x), S, H)
            masked = self.masked[part, self.until + 1 + L:self.until + 1 + L + S, None].expand(len(x), S, H, -1)
            with _autocast(device):
                hazard, kinds, _ = net(x.to(device), position.to(device), calendar.to(device), horizon.to(device))
            n = int((target >= 0).sum())
            if n:
                total += float(_nll(hazard, kinds, target.to(device), masked.to(device))) * n
                count += n
        return total / count


def _nll(hazard, kinds, target, masked):
    """hazard: (B, S, P); kinds: (B, S, P, A); target: (B, S, P) class ids, -1 left out; masked: (B, S, P, J) bool."""
    keep = target >= 0
    target, hazard, kinds, masked = target[keep].long(), hazard[keep], kinds[keep], masked.expand(*keep.shape, -1)[keep]
    kinds = kinds.masked_fill(F.pad(masked, (0, kinds.shape[1] - masked.shape[1])), -torch.inf)
    moved = target > 0
    kind = kinds.log_softmax(dim=1).gather(1, (target - 1).clamp(min=0)[:, None])[:, 0]
    return -torch.where(moved, F.logsigmoid(hazard) + torch.where(moved, kind, 0.0), F.logsigmoid(-hazard)).mean()


def _forking_data(model: Model, panel: Panel, held: int, cold: bool) -> _Forks:
    """Features and targets of the days to train and to validate on. A cold start also sets scaling and starting rates."""
    hyper, T = model.hyper, len(panel.dates)
    L, H = hyper["sequence_length"], hyper["forecast_length"]
    span = T if hyper["train_days"] is None else min(T, hyper["train_days"])
    keep = min(T, span + 2 * L)
    if len(panel) * keep > MAX_DAYS:
        rows = np.sort(np.random.default_rng(hyper["seed"]).choice(len(panel), MAX_DAYS // keep, replace=False))
        log.info("lstm: trained on a sample of %d of %d series", len(rows), len(panel))
        panel = panel.take(rows)
    posted = _read(panel, keep)
    ratio, classes = _targets(panel, posted, H)
    first, until = keep - span, keep - 1 - held
    if cold:
        day = np.arange(keep)[:, None]
        train = np.where((day >= first) & (day + np.arange(1, H + 1) <= until), classes, -1)              # (N, keep, H)
        rows = posted.features[(train >= 0).any(axis=2)].astype(np.float64)
        std = rows.std(axis=0) if len(rows) else np.ones(len(sticky.FEATURES))
        model.scaling = dict(mean=rows.mean(axis=0) if len(rows) else np.zeros(len(sticky.FEATURES)),
                             std=np.where(std > 1e-6, std, 1.0), atoms=sticky.atoms(ratio, train))
        _start_at_rates(model.net, train)
    return _Forks(hyper, _scaled(posted, model.scaling), classes, np.isnan(posted.levels), _calendar(panel, keep, H), first, until)


def _start_at_rates(net: Forking, classes) -> None:
    """The untrained network says the pooled rates: log odds of a change by h, log frequency of each kind of change."""
    changed, scored = (classes > 0).sum(axis=(0, 1)), (classes >= 0).sum(axis=(0, 1))      # (H,)
    rate = (changed + 0.01) / (scored + 2.0)               # no evidence: one change in two hundred
    kinds = np.bincount(classes[classes > 0].ravel().astype(int), minlength=sticky.CLASSES + 1)[1:]
    share = (kinds + 1) / (kinds.sum() + sticky.CLASSES)
    with torch.no_grad():
        net.hazard.copy_(torch.from_numpy(np.log(rate / (1 - rate))))
        net.out.bias[1:] = torch.from_numpy(np.log(share))


class _Windows:
    """Every window of the plain network: stride 1, min-max scaled on its own L days, targets never part of the scaling."""

    least = 1

    def __init__(self, hyper, filled, y, train_from, train_until):
        L, H = hyper["sequence_length"], hyper["forecast_length"]
        self.L = L
        N, T = filled.shape
        width = L + H
        if width > T:
            self.x = np.empty((0, L), np.float32)
            self.y, end = np.empty((0, H), np.float32), np.empty(0)
        else:
            windows = np.lib.stride_tricks.sliding_window_view(filled, width, axis=1)      # (N, T - width + 1, L + H), a view
            target = np.lib.stride_tricks.sliding_window_view(y, width, axis=1)[:, :, L:]
            low, high = windows[:, :, :L].min(axis=2), windows[:, :, :L].max(axis=2)       # NaN where the series has not begun
            series, start = np.nonzero((high > low) & (start_of(T, width) >= train_from))
            low, span = low[series, start, None], (high - low)[series, start, None]
            self.x = ((windows[series, start, :L] - low) / span).astype(np.float32)        # (W, L)
            self.y = ((target[series, start] - low) / span).astype(np.float32)             # (W, H)
            end = start + width - 1
            self.y[np.abs(self.y) > 10] = np.nan               # a jump far outside a narrow window would swamp the squares
        seen = np.isfinite(self.y).any(axis=1)
        self.train, self.held = np.flatnonzero(seen & (end <= train_until)), np.flatnonzero(seen & (end - H >= train_until))
        self.n_origins = self.size = len(self.train)

    def shuffled(self, draw, count):
        repeats = math.ceil(count / max(1, self.size))
        return np.concatenate([draw.permutation(self.train) for _ in range(repeats)])[:count]

    def _squares(self, net, rows, device):
        target = torch.from_numpy(self.y[rows]).to(device)
        out = net(torch.from_numpy(self.x[rows]).to(device)).float()
        return (out - target)[torch.isfinite(target)] ** 2

    def loss(self, net, rows, device, draw):
        return self._squares(net, rows, device).mean()

    @torch.no_grad()
    def validate(self, net, device):
        if not len(self.held):
            return None
        net.eval()
        squares = torch.cat([self._squares(net, self.held[i:i + 1024], device) for i in range(0, len(self.held), 1024)])
        return float(squares.mean())


def start_of(T, width):
    """(1, T - width + 1) last column of each window's input."""
    return np.arange(T - width + 1)[None]


def _plain_data(model: Model, panel: Panel, held: int, cold: bool) -> _Windows:
    hyper, T = model.hyper, len(panel.dates)
    span = T if hyper["train_days"] is None else min(T, hyper["train_days"] + hyper["sequence_length"])
    return _Windows(hyper, panel.filled[:, T - span:], panel.y[:, T - span:], 0, span - 1 - held)


# -------------------------------------------------------------------------------------------------------------- forecasting


def predict(model: Model, panel: Panel, horizon: int, quantiles) -> np.ndarray:
    """Prices (N, H, Q) float64 at the quantile levels: ordered, never negative, NaN for a series without any observation."""
    return forecast(model, panel, horizon, quantiles)[0]


def p_change(model: Model, panel: Panel, horizon: int) -> np.ndarray:
    """(N, H) probability that the price h days ahead differs from the last one; NaN from the plain network, which has none."""
    return forecast(model, panel, horizon, (0.5,))[1]


@torch.no_grad()
def forecast(model: Model, panel: Panel, horizon: int, quantiles) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles (N, H, Q) and probability of a change (N, H) in one pass, by chunks of series."""
    if not 1 <= horizon <= model.hyper["forecast_length"]:
        raise LSTMError(f"lstm: the model was trained for {model.hyper['forecast_length']} periods ahead and cannot forecast "
                        f"{horizon}: train it with forecast_length={horizon}")
    q = np.full((len(panel), horizon, len(quantiles)), np.nan)
    p = np.full((len(panel), horizon), np.nan)
    begun = np.flatnonzero(panel.n_obs > 0)
    for i in range(0, len(begun), CHUNK):
        rows = begun[i:i + CHUNK]
        part = panel.take(rows)
        if model.hyper["window"] == "single":
            q[rows] = _plain_forecast(model, part, horizon)[:, :, None]
            continue
        posted, hazard, kinds, _ = _decode(model, part, horizon)
        p[rows] = hazard
        n = len(rows) * horizon
        price, levels = posted.price[:, -1], posted.levels[:, -1]
        q[rows] = sticky.quantiles(np.repeat(price, horizon), np.repeat(levels, horizon, axis=0), hazard.reshape(n),
                                   kinds.reshape(n, -1), np.asarray(model.scaling["atoms"]), quantiles).reshape(-1, horizon, len(quantiles))
    return q, p


@torch.no_grad()
def attention(model: Model, panel: Panel) -> np.ndarray:
    """(N, H, L) how much each of the last L days, oldest first, counts for each day ahead; NaN for a series never seen."""
    if model.hyper["window"] != "all" or not model.hyper["attention"]:
        raise LSTMError("lstm: this model has no attention over days: train it with attention=True, window='all'")
    L, H = model.hyper["sequence_length"], model.hyper["forecast_length"]
    out = np.full((len(panel), H, L), np.nan)
    begun = np.flatnonzero(panel.n_obs > 0)
    for i in range(0, len(begun), CHUNK):
        rows = begun[i:i + CHUNK]
        out[rows] = _decode(model, panel.take(rows), H)[3][:, :, -L:]
    return out


def _decode(model: Model, panel: Panel, horizon: int):
    """(Posted, p_change (N, H), kinds (N, H, A), attention (N, H, 2L) or None) at the last day of the panel."""
    L, device = model.hyper["sequence_length"], _device(model.hyper)
    posted = _read(panel, 2 * L)
    x = _scaled(posted, model.scaling)
    x = torch.from_numpy(np.pad(x, ((0, 0), (2 * L - x.shape[1], 0), (0, 0))))             # (N, 2L, K)
    N = len(x)
    calendar = torch.from_numpy(_calendar(panel, 1, horizon)).expand(N, 1, horizon, CALENDAR)
    net = model.net.to(device).eval()
    hazard, kinds, weights = net(x.to(device), torch.tensor([2 * L - 1], device=device), calendar.to(device),
                                 torch.arange(horizon, device=device).expand(N, 1, horizon))
    kinds = kinds[:, 0].double().softmax(dim=-1).cpu().numpy()                             # masked levels are dropped later
    weights = None if weights is None else weights[:, 0].cpu().numpy()
    return posted, hazard[:, 0].double().sigmoid().cpu().numpy(), kinds, weights


def _plain_forecast(model: Model, panel: Panel, horizon: int) -> np.ndarray:
    """(N, H) point forecasts: the last L filled days scaled to 0..1 and back. A constant window stays constant."""
    L, device = model.hyper["sequence_length"], _device(model.hyper)
    window = panel.filled[:, -L:]
    first = np.nanmax(np.where(np.isfinite(window), -np.arange(window.shape[1]), -np.inf), axis=1).astype(int)
    window = np.where(np.isfinite(window), window, window[np.arange(len(window)), -first][:, None])
    window = np.pad(window, ((0, 0), (L - window.shape[1], 0)), mode="edge")               # (N, L) a short one starts at its first
    low = window.min(axis=1, keepdims=True)
    span = window.max(axis=1, keepdims=True) - low
    x = torch.from_numpy(((window - low) / np.where(span > 0, span, 1.0)).astype(np.float32))
    out = model.net.to(device).eval()(x.to(device)).cpu().numpy().astype(np.float64)       # (N, H)
    return np.maximum(low + out * span, 0.0)[:, :horizon]


# -------------------------------------------------------------------------------------------------------------- on disk


def save(model: Model, directory) -> None:
    """weights.safetensors and model.json in a directory that is made. Wall-clock seconds stay out: same model, same bytes."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.net.to("cpu").state_dict().items()}, directory / "weights.safetensors")
    text = dict(model="lstm", **{"class": type(model.net).__name__}, hyperparameters=model.hyper, features=sticky.FEATURES,
                scaling={k: np.asarray(v).tolist() for k, v in model.scaling.items()},
                info={k: v for k, v in model.info.items() if k != "seconds"}, history=model.history)
    (directory / "model.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


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
    if tuple(features) != sticky.FEATURES:
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
    _fill(net, state, weights)
    scaling = {k: np.asarray(v) for k, v in text["scaling"].items()}
    return Model(net=net.eval(), hyper=hyper, scaling=scaling, history=text["history"], info=text["info"])


def load_checkpoint(path, **hyper) -> nn.Module:
    """The network of a foreign ``.pth``: a flat state dict, loaded strictly, nothing in it executed.

    For the plain network: ``attention=False, window="single"``, then ``forward(x (B, L)) -> (B, H)`` in scaled space. With
    ``attention=True`` the plain network's extra weights may be absent: they start at nothing added. LSTMError names the path,
    and the key and both shapes where they differ.
    """
    hyper, path = _settings(hyper), Path(path)
    if not path.is_file():
        raise LSTMError(f"{path}: no such checkpoint file; correct the path, or leave it out to train from the start")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                # torch warns of the formats that are refused below anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise LSTMError(f"{path}: refused, not a plain file of weights (a pickle, a TorchScript archive or a cut-off file is never "
                        f"executed): {reason}. Save it with torch.save(model.state_dict(), path)") from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise LSTMError(f"{path}: refused, wanted a flat dictionary of tensors; save it with torch.save(model.state_dict(), path)")
    net = _network(hyper)
    if hyper["window"] == "single" and hyper["attention"]:
        state = {**{k: v for k, v in net.state_dict().items() if k.startswith("attention.")}, **state}
    _fill(net, state, path)
    return net.eval()


def from_checkpoint(path, **hyper) -> Model:
    """A foreign checkpoint of the plain network as a model that ``predict`` and ``finetune`` take."""
    hyper = _settings({"attention": False, "window": "single", **hyper})
    if hyper["window"] != "single":
        raise LSTMError(f"{path}: a bare checkpoint has no scaling, so it serves window='single' only; use load(directory) instead")
    return Model(net=load_checkpoint(path, **hyper), hyper=hyper, info=dict(id=str(path), parent=str(path)),
                 history=[dict(epoch=0, step=0, train_loss=None, validation_loss=None, kept=True)])


def _fill(net: nn.Module, state: dict, path) -> None:
    """Strict load: every key, every shape, or an LSTMError that names the first that differs."""
    wanted = net.state_dict()
    hint = "the plain 18-tensor network needs attention=False, window='single'; hidden_size and num_layers must agree too"
    for key, tensor in wanted.items():
        if key not in state:
            raise LSTMError(f"{path}: key {key!r} is missing, wanted with shape {tuple(tensor.shape)}, the file has none; {hint}")
        if state[key].shape != tensor.shape:
            raise LSTMError(f"{path}: key {key!r} has shape {tuple(state[key].shape)}, wanted {tuple(tensor.shape)}; {hint}")
    for key, tensor in state.items():
        if key not in wanted:
            raise LSTMError(f"{path}: unexpected key {key!r} with shape {tuple(tensor.shape)}, this network has none; {hint}")
    net.load_state_dict(state)
