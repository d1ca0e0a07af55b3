"""The default network learns from every day at once: one pass over a crop of days is asked for a forecast at each of them.

Forking sequences (Wen et al. 2017, A Multi-Horizon Quantile Recurrent Forecaster). The encoder LSTM runs once over the crop;
per day ahead, the decoder gives the log odds that the price differs and the log odds of 25 kinds of change (``sticky``). With
attention it also looks back over the encoder's last L states; without layers there is no recurrence, and what is left is the
feature network. A ``model`` here is anything with net, hyper and scaling, as ``lstm.Model`` has.

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

from . import spells, sticky
from .panel import Panel

log = logging.getLogger(__name__)

CLIP = 4.0  # standard deviations
CALENDAR, HABITS = len(spells.CALENDAR), 2  # the last columns are of the shop's habit
WIDTH = 64  # of the layer before the output
# Of a crop's origins every third is scored in a step, from a random one, at three random horizons: neighbours nearly agree, and
# all of them cost half as much again for the same accuracy.
EVERY, ASKED = 3, 3
MAX_DAYS = 1_000_000  # series-days held as features (110 MB); above it a seeded sample of the series is trained on
READS = 4  # days that a forecast reads: features have summed up what came before, and 8, 16 or 30 are no better (measured)
# A shop has tens of campaigns: a recurrence that is always at hand learns them by heart. So half of the crops are learnt from
# without it, the others with half of its state, and a forecast is the mean of the log odds with it and without.
FORGET, HAZE = 0.5, 0.5
JUDGES = 256  # series that the validation loss is taken over, evenly spaced, on every third day, at three horizons


class Forking(nn.Module):
    """Encoder LSTM over daily features; a decoder asked by horizon, which may attend to the encoder's last L states."""

    def __init__(self, hyper: dict, features: int = len(spells.FEATURES)):
        super().__init__()
        D, H, layers = hyper["hidden_size"], hyper["forecast_length"], hyper["num_layers"]
        self.length, self.attends = hyper["sequence_length"], hyper["attention"]
        self.reads = self.length if self.attends else min(READS, self.length) if layers else 1  # days to forecast from
        self.from_features = nn.Linear(features, D)
        self.from_calendar = nn.Linear(CALENDAR, D, bias=False)
        with torch.no_grad():  # of a shop's habit nothing is known before it is learnt: the generated shops have one each
            self.from_calendar.weight[:, -HABITS:] = 0
        self.encoder = None
        if layers:
            dropout = hyper["dropout"] if layers > 1 else 0.0
            self.encoder = nn.LSTM(features, D, layers, batch_first=True, dropout=dropout)
            self.from_state = nn.Linear(D, D, bias=False)
        if self.attends:
            self.query, self.ask = nn.Linear(D, 32), nn.Linear(CALENDAR, 32, bias=False)
            self.key, self.value = nn.Linear(D, 32, bias=False), nn.Linear(D, D, bias=False)
            nn.init.zeros_(self.value.weight)  # attention starts as nothing added
        self.hidden = nn.Linear(D, WIDTH)
        self.out = nn.Linear(WIDTH, sticky.CLASSES + 1)
        self.hazard = nn.Parameter(torch.full((H,), -6.0))  # log odds of a change by h before anything is known
        self.dropout = nn.Dropout(hyper["dropout"])
        with torch.no_grad():
            self.out.weight.mul_(0.1)  # starts near the pooled rates: "the last price"
            self.out.bias.zero_()

    def forward(self, x, origins, calendar, horizon):
        """x: (B, C, K). origins: slice of the S days of the crop to forecast from. calendar: (B, S, P, CALENDAR) of P horizons
        each. horizon: (B, S, P) counted from 0. In both, 1 stands for a B or S whose rows are all alike. Returns hazard logits
        (B, S, P), class logits (B, S, P, A), attention (B, S, P, C); the logits are means with and without the recurrence, but
        in training the first crops have it, the others do not, and of attention nothing is said.
        """
        known = self.from_features(x[:, origins])[:, :, None] + self.from_calendar(calendar)  # (B, S, P, D)
        if self.encoder is None:
            return *self.said([known], horizon), None
        if not self.training:
            memory, weights = self.recalled(x, origins, calendar)  # (B, S, P, D)
            return *self.said([known + memory, known], horizon), weights
        kept = remembering(len(x))  # crops come in random order; the others cost no encoder
        memory, _ = self.recalled(x[:kept], origins, calendar[:kept])
        return *self.said([torch.cat([known[:kept] + memory, known[kept:]])], horizon), None

    def recalled(self, x, origins, calendar):
        """What the recurrence adds to the features of the day, (B, S, 1 or P, D), and attention (B, S, P, C), None without."""
        with autocast(x.device):
            states, _ = self.encoder(x)  # (B, C, D)
        states = states.float()
        state = states[:, origins]  # (B, S, D)
        memory = self.from_state(F.dropout(state, HAZE, self.training))[:, :, None]
        if not self.attends:
            return memory, None
        ask = (self.query(state)[:, :, None] + self.ask(calendar)) / math.sqrt(self.query.out_features)
        score = ask.flatten(1, 2) @ self.key(states).transpose(1, 2)  # (B, S * P, C)
        days = torch.arange(x.shape[1], device=x.device)
        back = days[origins, None] - days  # (S, C) days before the origin
        outside = torch.zeros(back.shape, device=x.device).masked_fill((back < 0) | (back >= self.length), -torch.inf)
        weights = (score.unflatten(1, ask.shape[1:3]) + outside[:, None]).softmax(dim=-1)  # (B, S, P, C)
        seen = weights.to(states.dtype).flatten(1, 2) @ self.value(states)  # (B, S * P, D)
        return memory + seen.unflatten(1, ask.shape[1:3]), weights

    def said(self, ways, horizon):
        """Hazard logits (B, S, P) and class logits (B, S, P, A), means over ways of knowing, each (B, S, P, D)."""
        deep = [self.deepened(way) for way in ways]
        out = self.out(deep[0] if len(deep) == 1 else (deep[0] + deep[1]).div_(2))  # (B, S, P, A + 1)
        return out[..., 0] + self.hazard[horizon], out[..., 1:]

    def deepened(self, known):
        """The layer before the output, of what is known: (B, S, P, D) -> (B, S, P, WIDTH). What follows it is linear."""
        mixed = F.gelu(known)
        if self.training:
            mixed = mixed * self.dropout(torch.ones_like(mixed[..., :1, :]))  # an origin's horizons drop the same
        return F.gelu(self.hidden(mixed))


def widen(net: Forking, state: dict) -> None:
    """Let weights of a network from before a shop's habit was read say of it what they know: nothing."""
    for name in ("from_calendar.weight", "ask.weight"):
        if name in state and state[name].shape == (len(net.get_parameter(name)), CALENDAR - HABITS):
            state[name] = F.pad(state[name], (0, HABITS))


def remembering(crops: int) -> int:
    """How many crops of a training step have the recurrence: the first ones."""
    return math.ceil(crops * (1 - FORGET))


def warm_up(length: int) -> int:
    """Days of a crop before the first that is learnt from. No origin is lost: none is learnt from that early in a life."""
    return min(length // 2, sticky.LIFE - 1)


def autocast(device: torch.device):
    """Of the encoder: bfloat16 where the processor multiplies it (with tiles 3 times faster, without a fifth), else float32."""
    fast = device.type == "cuda" or any(torch.cpu.get_capabilities().get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


# -------------------------------------------------------------------------------------------------------- panel to tensors


def _scaled(posted: spells.Posted, scaling: dict, out: np.ndarray | None = None) -> np.ndarray:
    """Features in training standard deviations, clipped, 0 before a series begins: (N, C, K). out: where to, which may be in
    place of the raw ones."""
    x = np.subtract(posted.features, np.asarray(scaling["mean"], dtype=np.float32), out=out)
    x /= np.asarray(scaling["std"], dtype=np.float32)
    np.clip(x, -CLIP, CLIP, out=x)
    x[posted.life == 0] = 0
    return x


# ---------------------------------------------------------------------------------------------------------------- training


def prepare(model, panel: Panel, held: int, cold: bool) -> _Forks:
    """Features and targets of the days to train and to validate on. A cold start also sets scaling and starting rates."""
    hyper, T = model.hyper, len(panel.dates)
    L, H = hyper["sequence_length"], hyper["forecast_length"]
    span = T if hyper["train_days"] is None else min(T, hyper["train_days"])
    keep = min(T, span + L)
    whole, panel = len(panel), panel.sample(MAX_DAYS // keep, hyper["seed"])
    if len(panel) < whole:
        log.info("lstm: trained on a sample of %d of %d series", len(panel), whole)
    posted = spells.of(panel, keep)
    ratio, classes = sticky.targets(panel, posted, H)
    first, until = keep - span, keep - 1 - held
    if cold:
        day = np.arange(keep)[:, None]
        train = np.where((day >= first) & (day + np.arange(1, H + 1) <= until), classes, -1)  # (N, keep, H)
        rows = posted.features[(train >= 0).any(axis=2)]
        rows = rows if len(rows) else np.zeros((1, len(spells.FEATURES)))
        std = rows.std(axis=0, dtype=np.float64)
        model.scaling = dict(
            mean=rows.mean(axis=0, dtype=np.float64), std=np.where(std > 1e-6, std, 1.0), atoms=sticky.atoms(ratio, train)
        )
        _start_at_rates(model.net, train)
    masked, x = np.isnan(posted.levels), _scaled(posted, model.scaling, out=posted.features)
    calendar = spells.calendar(panel, keep, H, spells.habit(panel.until(panel.dates[T - 1 - held])))
    return _Forks(L, x, classes, masked, calendar, first, until, least=16 if cold else 10)


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
    """Crops of C <= 3 L days: some to warm up, then S days that are scored. Training days first..until, then validation."""

    def __init__(self, length, x, classes, masked, calendar, first, until, least):
        keep, H = classes.shape[1:]
        day = np.arange(keep)[:, None]
        # a training target lies at or before ``until``; a validation origin after it
        self.train = torch.from_numpy(np.where((day >= first) & (day + np.arange(1, H + 1) <= until), classes, -1))
        self.validation = torch.from_numpy(np.where(day > until, classes, -1))
        self.x, self.masked, self.calendar = torch.from_numpy(x), torch.from_numpy(masked), torch.from_numpy(calendar)
        self.any_train = (self.train >= 0).any(dim=2).numpy()  # (N, keep)
        self.n_origins = int(self.any_train.sum())
        self.first, self.until = first, until
        self.length = min(3 * length, until + 1)  # C
        self.warm = warm_up(length)
        self.scored = max(1, self.length - self.warm)  # S
        self.least = least  # steps an epoch: a small panel is passed over more than once
        self.size = len(x) * math.ceil(max(1, until + 1 - max(first, self.warm)) / self.scored) if self.n_origins else 0

    def shuffled(self, draw, count):
        """(count, 2) series and first day of crops whose scored days tile the training days, from a random offset."""
        total = np.pad(np.cumsum(self.any_train, axis=1), ((0, 0), (1, 0)))
        out = []
        while sum(map(len, out)) < count:
            start = np.arange(self.first - self.warm - draw.integers(self.scored), self.until + 1, self.scored)
            start = np.unique(np.clip(start, 0, self.until + 1 - self.length))
            series, block = np.nonzero(total[:, start + self.length] > total[:, start + self.warm])
            out.append(draw.permutation(np.stack([series, start[block]], axis=1)))
        return np.concatenate(out)[:count]

    def loss(self, net, rows, device, draw):
        """Mean negative log probability of what came, a few random horizons of every third origin."""
        series, start = torch.from_numpy(rows[:, 0, None]), torch.from_numpy(rows[:, 1, None])
        origins = slice(self.warm + int(draw.integers(EVERY)), self.length, EVERY)  # S days of the crop
        day, H = start + torch.arange(self.length)[origins], self.train.shape[2]  # (B, S)
        h = torch.from_numpy(draw.random((*day.shape, H), dtype=np.float32)).topk(min(ASKED, H)).indices  # (B, S, P)
        target = self.train[series, day].gather(2, h)
        if not (target >= 0).any():
            return None
        x = self.x[series, start + torch.arange(self.length)]  # (B, C, K)
        calendar, masked = self.calendar[day[..., None], h], self.masked[series, day, None]
        hazard, kinds, _ = net(x.to(device), origins, calendar.to(device), h.to(device))
        return _nll(hazard, kinds, target.to(device), masked.to(device))

    @torch.no_grad()
    def validate(self, net, device):
        """Mean negative log probability at some held-out origins of some series; None without any."""
        net.eval()
        H, start = self.train.shape[2], max(self.until + 2 - net.reads, 0)  # the first is read as a forecast reads
        judges = torch.arange(0, len(self.x), math.ceil(max(1, len(self.x)) / JUDGES))
        day = torch.arange(self.until + 1, self.x.shape[1], EVERY)
        h = torch.unique(torch.tensor([0, H // 2, H - 1]))
        target = self.validation[judges[:, None, None], day[:, None], h]  # (B, S, P)
        if not (target >= 0).any():
            return None
        calendar = self.calendar[None, day[:, None], h]  # (1, S, P, CALENDAR)
        x, origins = self.x[judges, start:], slice(self.until + 1 - start, None, EVERY)
        hazard, kinds, _ = net(x.to(device), origins, calendar.to(device), h[None, None].to(device))
        return float(_nll(hazard, kinds, target.to(device), self.masked[judges[:, None], day, None].to(device)))


def _nll(hazard, kinds, target, masked):
    """hazard: (B, S, P); kinds: (B, S, P, A); target: (B, S, P) class ids, -1 left out; masked: (B, S, 1, J) bool."""
    known, moved = (target >= 0).to(hazard.dtype), target > 0
    rate = F.binary_cross_entropy_with_logits(hazard, moved.to(hazard.dtype), known, reduction="sum")
    b, s, p = moved.nonzero(as_tuple=True)  # few: the rest need no class
    masked = F.pad(masked[b, s, 0], (0, kinds.shape[3] - masked.shape[3]))
    kind = F.cross_entropy(kinds[b, s, p].masked_fill(masked, -torch.inf), target[b, s, p].long() - 1, reduction="sum")
    return (rate + kind) / known.sum()


# ------------------------------------------------------------------------------------------------------------- forecasting


@torch.no_grad()
def decode(model, panel: Panel, ahead: np.ndarray, device) -> tuple[spells.Posted, np.ndarray, np.ndarray, np.ndarray | None]:
    """What the network says at the last day of a panel of series that have all been seen. ahead: (H, CALENDAR) of that day.

    Returns what was read, p_change (N, H), kinds of change (N, H, A) that still count masked levels, and attention
    (N, H, L) or None.
    """
    C = model.net.reads
    posted = spells.of(panel, C)
    x = torch.from_numpy(_scaled(posted, model.scaling))
    x = F.pad(x, (0, 0, C - x.shape[1], 0))  # (N, C, K)
    calendar = torch.from_numpy(ahead)[None, None].to(device)  # (1, 1, H, CALENDAR)
    horizon = torch.arange(len(ahead), device=device)[None, None]
    net = (model.net if device.type == "cpu" else model.net.to(device)).eval()  # it is at home on the processor
    hazard, kinds, weights = net(x.to(device), slice(C - 1, C), calendar, horizon)
    hazard = hazard[:, 0].double().sigmoid().clamp(1e-6, 1 - 1e-6)  # its log odds are finite
    kinds = kinds[:, 0].softmax(dim=-1).cpu().numpy()
    return posted, hazard.cpu().numpy(), kinds, None if weights is None else weights[:, 0].cpu().numpy()
