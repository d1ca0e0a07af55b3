"""What TiDE says of a period ahead: distributions of counts and quantiles, their losses, and the forecast made of them.

A network puts out P numbers a period; the first is relative to the log of the window's scale. Counts are negative binomial of
mean m and overdispersion a (variance m + a m^2), with or without more zeros than that. All losses are finite on raw counts of
any size: darts' own negative binomial becomes NaN there, because its mean is not tied to the scale of what it reads.

Symbols: B windows, H periods ahead, P parameters, Q quantile levels, E networks of an ensemble.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch.nn.functional import logsigmoid, softplus

from .counts import Demand

HEADS = ("nb", "zinb", "quantile")
PARAMETERS = {"nb": ("mean", "overdispersion"), "zinb": ("mean", "overdispersion", "extra_zero")}
LEAST_SPREAD = 0.02  # overdispersion of a head is never below it: nothing that is sold is as regular as Poisson
FEWEST_ZEROS = -3.0  # where the logit of the share of extra zeros begins
LARGEST = 14.0  # log of the largest mean a head can say, relative to the scale of its window
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def quantile_weights(levels, sigma_left: float | None = None, sigma_right: float | None = None) -> np.ndarray:
    """(Q,) how much each level counts in the quantile loss: asymmetric Gaussian weights around the median, which counts 1.

    With g(q; s) = N(q; .5, .5 s) / N(.5; .5, .5 s): levels below .5 weigh g(q; sigma_left), which falls to 0, and levels above
    weigh .5 + .5 g(q; sigma_right), which falls to .5, because selling out costs more than overstock. A sigma that is None
    leaves its side at 1. With neither, all weigh 1: the plain pinball loss, which estimates the quantiles that it is asked for
    whatever its weights, and which is what the forecasts are judged by. A rising line such as .3 to 3 would only give the
    network's capacity to the highest levels.
    """
    levels = np.asarray(levels, float)
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"quantile levels must be a list of numbers between 0 and 1, got {levels.tolist()}")
    out = np.ones(levels.shape)
    for sigma, side, floor in ((sigma_left, levels < 0.5, 0.0), (sigma_right, levels > 0.5, 0.5)):
        if sigma is None:
            continue
        if not sigma > 0:
            raise ValueError(f"the width of the quantile weights must be above 0, got {sigma!r}")
        bell = np.exp(-0.5 * ((levels[side] - 0.5) / (0.5 * sigma)) ** 2)
        out[side] = floor + (1 - floor) * bell
    return out


def parameters(raw: torch.Tensor, head: str) -> tuple[torch.Tensor, ...]:
    """Mean, overdispersion and, for "zinb", the logit of extra zeros: (B, H, 1) each, of a network's output (B, H, 1, P)."""
    mean = torch.exp(raw[..., 0].clamp(max=2 * LARGEST))  # its square is still a float32
    spread = softplus(raw[..., 1]) + LEAST_SPREAD
    return (mean, spread) if head == "nb" else (mean, spread, raw[..., 2] + FEWEST_ZEROS)


def said(raw: torch.Tensor, head: str) -> tuple[torch.Tensor, ...]:
    """P parameters (B, H, 1) as they are forecast: quantiles, or mean, overdispersion and, for "zinb", share of extra zeros."""
    if head == "quantile":
        return tuple(raw.unbind(dim=-1))
    mean, spread, *extra = parameters(raw, head)
    return (mean, spread, *(torch.sigmoid(e) for e in extra))


def unscale(raw: torch.Tensor, log_scale: torch.Tensor, quantile: bool) -> torch.Tensor:
    """A network's output (B, H, 1, P) put back on the scale (B, 1, 1, 1): quantiles times it, the log of a mean plus its."""
    if quantile:
        return softplus(raw) * torch.exp(log_scale)
    return torch.cat([raw[..., :1].clamp(max=LARGEST) + log_scale, raw[..., 1:]], dim=3)


def count_loss(raw: torch.Tensor, y: torch.Tensor, head: str) -> torch.Tensor:
    """Negative log likelihood (B, H, 1) of counts y (B, H, 1), which need not be whole. Lambert 1992 for the extra zeros."""
    mean, spread, *extra = parameters(raw, head)
    size = 1 / spread
    tail = size * torch.log1p(mean * spread)  # -log of the binomial's zero
    rest = torch.lgamma(size) + torch.lgamma(y + 1) - torch.lgamma(y + size)
    loss = rest + tail + y * (torch.log1p(mean * spread) - torch.log((mean * spread).clamp(min=1e-12)))
    if not extra:
        return loss
    zero = torch.logaddexp(logsigmoid(extra[0]), logsigmoid(-extra[0]) - tail)
    return torch.where(y > 0, loss - logsigmoid(-extra[0]), -zero)


def pinball_loss(raw: torch.Tensor, y: torch.Tensor, levels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Weighted pinball loss (B, H, 1), summed over levels (Q,), of quantiles (B, H, 1, Q). Koenker and Bassett 1978.

    weights: None where all levels weigh 1.
    """
    error = y[..., None] - raw
    loss = error * (levels - (error < 0).to(error.dtype))  # the larger of q e and (q - 1) e, with half the work
    return (loss if weights is None else weights * loss).sum(dim=-1)


def demand(said: list[np.ndarray], head: str, trained: tuple, quantiles) -> Demand:
    """The forecast of an ensemble: quantiles, means and zero probabilities averaged over its E networks' (B, H, P)."""
    each = [_quantiles(p, trained, quantiles) if head == "quantile" else _counts(p, quantiles) for p in said]
    q, mean, zero = (np.mean([getattr(d, name) for d in each], axis=0) for name in ("q", "mean", "zero"))
    return Demand(np.sort(np.maximum(q, 0.0), axis=2), np.maximum(mean, 0.0), np.clip(zero, 0.0, 1.0))


def _counts(said: np.ndarray, quantiles) -> Demand:
    """Of negative binomials (B, H, 2 or 3): mean, overdispersion, share of extra zeros."""
    mean, spread = said[..., 0].astype(float), said[..., 1].astype(float)
    extra = said[..., 2].astype(float) if said.shape[-1] > 2 else np.zeros_like(mean)
    size, p = 1 / spread, 1 / (1 + mean * spread)
    levels = (np.asarray(quantiles, float) - extra[..., None]) / (1 - extra[..., None])  # (B, H, Q), of the binomial part
    q = stats.nbinom.ppf(np.clip(levels, 0.0, None), size[..., None], p[..., None])
    return Demand(np.maximum(q, 0.0), (1 - extra) * mean, extra + (1 - extra) * p**size)


def _quantiles(said: np.ndarray, trained: tuple, quantiles) -> Demand:
    """Of quantiles (B, H, Q) at the levels that were trained: others lie on straight lines between them, the outer ones hold.

    The mean is the area under the same lines; the probability of nothing sold is the level at which they reach half a unit.
    """
    said, trained = np.sort(np.maximum(said.astype(float), 0.0), axis=-1), np.asarray(trained, float)
    wanted = np.asarray(quantiles, float)
    right = np.clip(np.searchsorted(trained, wanted), 1, max(len(trained) - 1, 1)).clip(max=len(trained) - 1)
    left = np.maximum(right - 1, 0)
    part = np.clip((wanted - trained[left]) / np.maximum(trained[right] - trained[left], 1e-12), 0.0, 1.0)
    q = said[..., left] * (1 - part) + said[..., right] * part  # (B, H, Q)
    edges = np.concatenate([[0.0], (trained[1:] + trained[:-1]) / 2, [1.0]])
    mean = (said * np.diff(edges)).sum(axis=-1)
    low = (said < 0.5).sum(axis=-1)  # (B, H) levels at which nothing is sold
    below, above = np.maximum(low - 1, 0), np.minimum(low, len(trained) - 1)
    lower, upper = (np.take_along_axis(said, k[..., None], axis=-1)[..., 0] for k in (below, above))
    reached = np.clip((0.5 - lower) / np.maximum(upper - lower, 1e-12), 0.0, 1.0)
    zero = trained[below] + reached * (trained[above] - trained[below])
    return Demand(q, mean, np.where(low == 0, trained[0] * 0.5, np.where(low == len(trained), 1.0, zero)))
