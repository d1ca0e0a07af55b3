"""The default network learns from every day at once: one pass over a crop of days is asked for a forecast at each of them.

Forking sequences (Wen et al. 2017, A Multi-Horizon Quantile Recurrent Forecaster). The encoder LSTM runs once over the crop;
the decoder looks back over the last L of its states and gives, per day ahead, the log odds that the price differs and the log
odds of 25 kinds of change (``sticky``). A ``model`` here is anything with net, hyper and scaling, as ``lstm.Model`` has.

Symbols: N series, T days, H days ahead, K features, B crops in a batch, C days in a crop, L sequence length, D hidden size,
S scored origins in a crop, P horizons asked of each, A = 25 kinds of change, J = 5 candidate levels, Q quantiles.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import sticky
from .panel import Panel

log = logging.getLogger(__name__)

LIFE, GAP = 20, 14  # an origin is trained on when its series is this old and was seen this lately
CLIP = 4.0  # standard deviations
CALENDAR = 5  # horizon features
# Of a crop's origins every third is scored in a step, from a random one, at three random horizons: neighbours nearly agree, and
# all of them cost half as much again for the same accuracy.
EVERY, ASKED = 3, 3
MAX_DAYS = 1_200_000  # series-days held as features (130 MB); above it a seeded sample of the series is trained on
JUDGES = 1024  # series that the validation loss is taken over, evenly spaced
CHUNK = 1024  # series at a time in reading and forecasting


class Forking(nn.Module):
    """Encoder LSTM over daily features; a decoder that attends to its last L states, asked by horizon."""

    def __init__(self, hyper: dict, features: int = len(sticky.FEATURES)):
        super().__init__()
        D, H, width = hyper["hidden_size"], hyper["forecast_length"], 64
        self.length, self.attends = hyper["sequence_length"], hyper["attention"]
        self.encoder = nn.LSTM(
            features, D, hyper["num_layers"], batch_first=True, dropout=hyper["dropout"] if hyper["num_layers"] > 1 else 0.0
        )
        self.from_state = nn.Linear(D, D)
        self.from_features = nn.Linear(features, D, bias=False)
        self.from_calendar = nn.Linear(CALENDAR, D, bias=False)
        if self.attends:
            self.query, self.ask = nn.Linear(D, 32), nn.Linear(CALENDAR, 32, bias=False)
            self.key, self.value = nn.Linear(D, 32, bias=False), nn.Linear(D, D, bias=False)
            nn.init.zeros_(self.value.weight)  # attention starts as nothing added
        self.hidden = nn.Linear(D, width)
        self.out = nn.Linear(width, sticky.CLASSES + 1)
        self.hazard = nn.Parameter(torch.full((H,), -6.0))  # log odds of a change by h before anything is known
        self.dropout = nn.Dropout(hyper["dropout"])
        with torch.no_grad():
            self.out.weight.mul_(0.1)  # starts near the pooled rates: "the last price"
            self.out.bias.zero_()

    def forward(self, x, position, calendar, horizon):
        """x: (B, C, K). position: (S,) days of the crop to forecast from. calendar: (B, S, P, CALENDAR) of P horizons each.
        horizon: (B, S, P) counted from 0. Returns hazard logits (B, S, P), class logits (B, S, P, A), attention (B, S, P, C).
        """
        states, _ = self.encoder(x)  # (B, C, D)
        state, weights = self.dropout(states[:, position]), None  # (B, S, D)
        mixed = (self.from_state(state) + self.from_features(x[:, position]))[:, :, None]
        mixed = mixed + self.from_calendar(calendar)  # (B, S, P, D)
        if self.attends:
            ask = (self.query(state)[:, :, None] + self.ask(calendar)) / math.sqrt(self.query.out_features)
            score = ask.flatten(1, 2) @ self.key(states).transpose(1, 2)  # (B, S * P, C)
            back = position[:, None] - torch.arange(x.shape[1], device=x.device)  # (S, C) days before the origin
            outside = torch.zeros(back.shape, device=x.device).masked_fill((back < 0) | (back >= self.length), -torch.inf)
            weights = (score.unflatten(1, ask.shape[1:3]) + outside[:, None]).softmax(dim=-1)  # (B, S, P, C)
            seen = weights.to(states.dtype).flatten(1, 2) @ self.value(states)  # (B, S * P, D)
            mixed = mixed + seen.unflatten(1, ask.shape[1:3])
        out = self.out(F.gelu(self.hidden(F.gelu(mixed)))).float()  # (B, S, P, A + 1)
        return out[..., 0] + self.hazard[horizon], out[..., 1:], weights


def autocast(device: torch.device):
    """bfloat16 where the processor has tiles for it (3 times faster there), float32 elsewhere."""
    fast = device.type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


# -------------------------------------------------------------------------------------------------------- panel to tensors


def _read(panel: Panel, keep: int) -> sticky.Posted:
    """``sticky.read`` of a panel by chunks of series, the last ``keep`` days."""
    listed = panel.past[:, :, panel.past_names.index("list_price")] if "list_price" in panel.past_names else None
    parts = [
        sticky.read(panel.y[i : i + CHUNK], None if listed is None else listed[i : i + CHUNK], keep)
        for i in range(0, len(panel), CHUNK)
    ]
    return sticky.Posted(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("price", "features", "levels", "life", "gap"))
    )


def _calendar(panel: Panel, keep: int, horizon: int) -> np.ndarray:
    """(keep, H, CALENDAR) float32: h, Mondays in (t, t + h], target is a Monday, on a weekend, a Friday."""
    weekday = (np.concatenate([panel.dates, panel.horizon_dates(horizon)]).astype("datetime64[D]").astype(int) + 3) % 7
    target = np.arange(len(panel.dates) - keep, len(panel.dates))[:, None] + np.arange(1, horizon + 1)  # (keep, H)
    monday = np.cumsum(weekday == 0)
    passed = monday[target] - monday[target[:, 0] - 1][:, None]
    day = weekday[target]
    h = np.broadcast_to(np.arange(1, horizon + 1) / 7, target.shape)
    return np.stack([h, passed, day == 0, day >= 5, day == 4], axis=2).astype(np.float32)


def _scaled(posted: sticky.Posted, scaling: dict) -> np.ndarray:
    """Features in training standard deviations, clipped, 0 before a series begins: (N, C, K), in place of the raw ones."""
    x = posted.features
    x -= np.asarray(scaling["mean"], dtype=np.float32)
    x /= np.asarray(scaling["std"], dtype=np.float32)
    np.clip(x, -CLIP, CLIP, out=x)
    x[posted.life == 0] = 0
    return x


def _targets(panel: Panel, posted: sticky.Posted, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios (N, C, H) float32 and classes (N, C, H) int8 of what came after each day; -1 where not to be scored."""
    N, C = posted.price.shape
    start = len(panel.dates) - C
    ratio = np.full((N, C, horizon), np.nan, dtype=np.float32)
    classes = np.full((N, C, horizon), -1, dtype=np.int8)
    eligible, candidates = (posted.life >= LIFE) & (posted.gap <= GAP), posted.ratios
    for h in range(1, min(horizon, C - 1) + 1):
        with np.errstate(invalid="ignore"):
            ahead = np.log(panel.y[:, start + h :] / posted.price[:, :-h])  # (N, C - h)
        ahead[~eligible[:, :-h]] = np.nan
        ratio[:, :-h, h - 1] = ahead
        classes[:, :-h, h - 1] = sticky.classify(ahead, candidates[:, :-h])
    return ratio, classes


# ---------------------------------------------------------------------------------------------------------------- training


def prepare(model, panel: Panel, held: int, cold: bool) -> _Forks:
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
        train = np.where((day >= first) & (day + np.arange(1, H + 1) <= until), classes, -1)  # (N, keep, H)
        rows = posted.features[(train >= 0).any(axis=2)]
        rows = rows if len(rows) else np.zeros((1, len(sticky.FEATURES)))
        std = rows.std(axis=0, dtype=np.float64)
        model.scaling = dict(
            mean=rows.mean(axis=0, dtype=np.float64), std=np.where(std > 1e-6, std, 1.0), atoms=sticky.atoms(ratio, train)
        )
        _start_at_rates(model.net, train)
    masked, x = np.isnan(posted.levels), _scaled(posted, model.scaling)
    return _Forks(hyper, x, classes, masked, _calendar(panel, keep, H), first, until, least=25 if cold else 10)


def _start_at_rates(net: Forking, classes) -> None:
    """The untrained network says the pooled rates: log odds of a change by h, log frequency of each kind of change."""
    changed, scored = (classes > 0).sum(axis=(0, 1)), (classes >= 0).sum(axis=(0, 1))  # (H,)
    rate = (changed + 0.01) / (scored + 2.0)  # no evidence: one change in two hundred
    kinds = np.bincount(classes[classes > 0].ravel().astype(int), minlength=sticky.CLASSES + 1)[1:]
    share = (kinds + 1) / (kinds.sum() + sticky.CLASSES)
    with torch.no_grad():
        net.hazard.copy_(torch.from_numpy(np.log(rate / (1 - rate))))
        net.out.bias[1:] = torch.from_numpy(np.log(share))


class _Forks:
    """Crops of days with all their origins: L days to warm up, then S scored days."""

    def __init__(self, net_hyper, x, classes, masked, calendar, train_from, train_until, least):
        L = net_hyper["sequence_length"]
        self.scored, self.length = 2 * L, 3 * L
        N, C, _ = x.shape
        pad = ((0, 0), (L, max(0, 2 * L - C)))
        self.x = torch.from_numpy(np.pad(x, (*pad, (0, 0))))  # (N, L + C, K) at least 3L
        classes = np.pad(classes, (*pad, (0, 0)), constant_values=-1)
        self.masked = torch.from_numpy(np.pad(masked, (*pad, (0, 0)), constant_values=True))
        self.calendar = torch.from_numpy(np.pad(calendar, (*pad[1:], (0, 0), (0, 0))))
        H = classes.shape[2]
        # a training target lies at or before train_until, counted in columns of x; later ones are for validation
        day = np.arange(classes.shape[1])[:, None] - L
        train = (day >= train_from) & (day + np.arange(1, H + 1) <= train_until)  # (days, H)
        self.train = torch.from_numpy(np.where(train, classes, -1))
        self.validation = torch.from_numpy(np.where(day > train_until, classes, -1))
        self.any_train = (self.train >= 0).any(dim=2).numpy()  # (N, days)
        self.n_origins = int(self.any_train.sum())
        self.first, self.until, self.columns = train_from, train_until, C
        self.least = least  # steps an epoch: a small panel is passed over more than once
        self.size = N * math.ceil(max(1, train_until - max(train_from, 0)) / self.scored) if self.n_origins else 0

    def shuffled(self, draw, count):
        """(count, 2) series and first column of crops whose scored days tile the training days, from a random offset."""
        S, total = self.scored, np.pad(np.cumsum(self.any_train, axis=1), ((0, 0), (1, 0)))
        out = []
        while sum(map(len, out)) < count:
            # day t is column t + L: a crop from column t on is scored from day t on
            start = np.arange(self.first - draw.integers(S), self.until + 1, S)
            start = np.clip(start, 0, max(0, self.until + 1 - S))
            series, block = np.nonzero(total[:, start + self.length] > total[:, start + self.length - S])
            out.append(draw.permutation(np.stack([series, start[block]], axis=1)))
        return np.concatenate(out)[:count]

    def loss(self, net, rows, device, draw):
        """Mean negative log probability of what came, a few random horizons of every third origin."""
        series, start = torch.from_numpy(rows[:, 0]), torch.from_numpy(rows[:, 1])
        first = self.length - self.scored + int(draw.integers(EVERY))
        position = torch.arange(first, self.length, EVERY)  # (S,)
        column = start[:, None] + position  # (B, S)
        target, masked = self.train[series[:, None], column], self.masked[series[:, None], column]
        h = torch.from_numpy(draw.random(target.shape).argsort(axis=2)[:, :, :ASKED].copy())  # (B, S, P)
        target = target.gather(2, h)
        if not (target >= 0).any():
            return None
        x = self.x[series[:, None], start[:, None] + torch.arange(self.length)]  # (B, C, K)
        calendar = self.calendar[column].gather(2, h[..., None].expand(-1, -1, -1, CALENDAR))
        hazard, kinds, _ = net(x.to(device), position.to(device), calendar.to(device), h.to(device))
        return _nll(hazard, kinds, target.to(device), masked[:, :, None].to(device))

    @torch.no_grad()
    def validate(self, net, device):
        """Mean negative log probability at the held-out origins of some series, every horizon; None without any."""
        net.eval()
        L, first = self.length - self.scored, self.until + 1
        start, stop = max(first - L, 0), self.columns + L  # warmed up on 2 L days, as in forecasting
        S, H = self.columns - first, self.train.shape[2]
        judges = torch.arange(0, len(self.x), math.ceil(len(self.x) / JUDGES))
        position = torch.arange(stop - start - S, stop - start, device=device)
        total, count = 0.0, 0
        for part in judges.split(256):
            target = self.validation[part, first + L : stop]  # (B, S, H)
            n = int((target >= 0).sum())
            if not n:
                continue
            x, calendar = self.x[part, start:stop], self.calendar[first + L : stop].expand(len(part), S, H, CALENDAR)
            horizon, masked = torch.arange(H).expand(len(part), S, H), self.masked[part, first + L : stop, None]
            with autocast(device):
                hazard, kinds, _ = net(x.to(device), position, calendar.to(device), horizon.to(device))
            total += float(_nll(hazard, kinds, target.to(device), masked.to(device))) * n
            count += n
        return total / count if count else None


def _nll(hazard, kinds, target, masked):
    """hazard: (B, S, P); kinds: (B, S, P, A); target: (B, S, P) class ids, -1 left out; masked: (B, S, P, J) bool."""
    keep = target >= 0
    target, hazard, kinds, masked = target[keep].long(), hazard[keep], kinds[keep], masked.expand(*keep.shape, -1)[keep]
    kinds = kinds.masked_fill(F.pad(masked, (0, kinds.shape[1] - masked.shape[1])), -torch.inf)
    moved = target > 0
    kind = kinds.log_softmax(dim=1).gather(1, (target - 1).clamp(min=0)[:, None])[:, 0]
    return -torch.where(moved, F.logsigmoid(hazard) + torch.where(moved, kind, 0.0), F.logsigmoid(-hazard)).mean()


# ------------------------------------------------------------------------------------------------------------- forecasting


def forecast(model, panel: Panel, horizon: int, quantiles, device) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles (N, H, Q) and probability of a change (N, H) of series that have all been seen, in one pass."""
    posted, hazard, kinds, _ = decode(model, panel, horizon, device)
    price, levels = (np.repeat(a[:, -1], horizon, axis=0) for a in (posted.price, posted.levels))  # (N * H, ...)
    read = sticky.quantiles(price, levels, hazard.ravel(), kinds.reshape(len(price), -1), model.scaling["atoms"], quantiles)
    return read.reshape(len(panel), horizon, -1), hazard


@torch.no_grad()
def decode(model, panel: Panel, horizon: int, device):
    """(Posted, p_change (N, H), kinds (N, H, A), attention (N, H, 2L) or None) at the last day of the panel."""
    L = model.hyper["sequence_length"]
    posted = _read(panel, 2 * L)
    x = _scaled(posted, model.scaling)
    x = torch.from_numpy(np.pad(x, ((0, 0), (2 * L - x.shape[1], 0), (0, 0))))  # (N, 2L, K)
    N = len(x)
    calendar = torch.from_numpy(_calendar(panel, 1, horizon)).expand(N, 1, horizon, CALENDAR)
    net = model.net.to(device).eval()
    hazard, kinds, weights = net(
        x.to(device),
        torch.tensor([2 * L - 1], device=device),
        calendar.to(device),
        torch.arange(horizon, device=device).expand(N, 1, horizon),
    )
    kinds = kinds[:, 0].double().softmax(dim=-1).cpu().numpy()  # masked levels are dropped later
    weights = None if weights is None else weights[:, 0].cpu().numpy()
    return posted, hazard[:, 0].double().sigmoid().cpu().numpy(), kinds, weights
