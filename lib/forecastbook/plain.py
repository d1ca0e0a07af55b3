"""The plain sequence-to-sequence network on min-max scaled prices, so that an ``lstm_forecaster.pth`` gives its own numbers.

Every window of L days is scaled to 0..1 on its own; the decoder feeds back its output for H days. It is a point forecast.
A ``model`` here is anything with net and hyper, as ``lstm.Model`` has.

Symbols: N series, T days, H days ahead, B windows in a batch, W windows in all, L sequence length, D hidden size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from .panel import Panel


class Plain(nn.Module):
    """Encoder LSTM, decoder LSTM that feeds back its output, linear head: 18 tensors. Attention is extra, nothing at first."""

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
        states, memory = self.encoder(x[:, :, None])  # (B, L, D)
        value, out = x[:, -1:, None], []  # (B, 1, 1)
        for _ in range(self.steps):
            state, memory = self.decoder(value, memory)  # (B, 1, D)
            if self.attention is not None:
                weights = (state @ states.transpose(1, 2) / math.sqrt(state.shape[-1])).softmax(dim=-1)
                state = state + self.attention(weights @ states)
            value = self.linear(state)
            out.append(value)
        return torch.cat(out, dim=1)[:, :, 0]  # (B, H)


def prepare(model, panel: Panel, held: int, cold: bool) -> _Windows:
    """The windows to train and to validate on; this network keeps no scaling, so a cold start is like any other."""
    hyper, T = model.hyper, len(panel.dates)
    span = T if hyper["train_days"] is None else min(T, hyper["train_days"] + hyper["sequence_length"])
    return _Windows(hyper, panel.filled[:, T - span :], panel.y[:, T - span :], span - 1 - held)


class _Windows:
    """Every window of the plain network: stride 1, min-max scaled on its own L days, targets never part of the scaling."""

    least = 1

    def __init__(self, hyper, filled, y, train_until):
        L, H = hyper["sequence_length"], hyper["forecast_length"]
        N, T = filled.shape
        width = L + H
        if width > T:
            self.x = np.empty((0, L), np.float32)
            self.y, end = np.empty((0, H), np.float32), np.empty(0)
        else:
            windows = np.lib.stride_tricks.sliding_window_view(filled, width, axis=1)  # (N, T - width + 1, L + H), a view
            target = np.lib.stride_tricks.sliding_window_view(y, width, axis=1)[:, :, L:]
            low, high = windows[:, :, :L].min(axis=2), windows[:, :, :L].max(axis=2)  # NaN where the series has not begun
            series, start = np.nonzero(high > low)
            low, span = low[series, start, None], (high - low)[series, start, None]
            self.x = ((windows[series, start, :L] - low) / span).astype(np.float32)  # (W, L)
            self.y = ((target[series, start] - low) / span).astype(np.float32)  # (W, H)
            end = start + width - 1
            self.y[np.abs(self.y) > 10] = np.nan  # a jump far outside a narrow window would swamp the squares
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
        squares = torch.cat([self._squares(net, self.held[i : i + 1024], device) for i in range(0, len(self.held), 1024)])
        return float(squares.mean())


@torch.no_grad()
def forecast(model, panel: Panel, horizon: int, device) -> np.ndarray:
    """(N, H) point forecasts: the last L filled days scaled to 0..1 and back. A constant window stays constant."""
    L = model.hyper["sequence_length"]
    window = panel.filled[:, -L:]
    first = np.nanmax(np.where(np.isfinite(window), -np.arange(window.shape[1]), -np.inf), axis=1).astype(int)
    window = np.where(np.isfinite(window), window, window[np.arange(len(window)), -first][:, None])
    window = np.pad(window, ((0, 0), (L - window.shape[1], 0)), mode="edge")  # (N, L): a short one begins level
    low = window.min(axis=1, keepdims=True)
    span = window.max(axis=1, keepdims=True) - low
    x = torch.from_numpy(((window - low) / np.where(span > 0, span, 1.0)).astype(np.float32))
    out = model.net.to(device).eval()(x.to(device)).cpu().numpy().astype(np.float64)  # (N, H)
    return np.maximum(low + out * span, 0.0)[:, :horizon]
