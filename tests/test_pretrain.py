"""The base network that the package carries: small, of the default shape, worth starting from, and made the same each time."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import torch

from conftest import LEVELS
from forecastbook import chain, lstm, models, pretrain, processes, scores
from forecastbook.params import Params

H = 7


@pytest.fixture(scope="module")
def base():
    return lstm.shipped()


def loss(q, y, last) -> np.ndarray:
    """(N,) mean pinball relative to the last price, NaN where nothing came."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(scores.pinball(y, q, LEVELS).mean(axis=-1) / last[:, None], axis=1)


def test_it_is_small_and_comes_with_the_package():
    found = sorted(lstm.BASE.iterdir())
    assert [p.name for p in found] == ["model.json", "weights.safetensors"]
    assert sum(p.stat().st_size for p in found) <= 2_000_000
    tools = tomllib.loads((chain.ROOT / "pyproject.toml").read_text())["tool"]
    patterns = tools["setuptools"]["package-data"]["forecastbook"]
    assert set(found) <= {path for pattern in patterns for path in lstm.BASE.parent.glob(pattern)}


def test_it_has_the_default_shape_so_that_a_first_run_starts_from_it(base):
    asked = Params()
    for name in lstm.SHAPE:
        assert base.hyper[name] == lstm.DEFAULTS[name], name
        if name != "forecast_length":
            assert base.hyper[name] == getattr(asked.model, name), name
    assert base.hyper["forecast_length"] == asked.horizon
    assert base.info["id"] == models.SHIPPED and base.info["n_series"] == pretrain.SHOPS * pretrain.ITEMS
    assert {k: base.hyper[k] for k in pretrain.TRAINING} == pretrain.TRAINING, "made by this very recipe"
    assert all(torch.isfinite(v).all() for v in base.net.state_dict().values())


def test_zero_shot_it_beats_the_last_value_on_shops_that_it_has_not_seen(base):
    """Generated shops of other seeds than its own: a lower quantile score over all of them, and in most of them."""
    gains, pooled = [], []
    for seed in (1001, 1002, 1003, 1004):
        panel = processes.shops(6, 25, 260, seed)
        for date in panel.dates[[-40, -22, -8]]:
            view, y = panel.until(date), panel.after(date, H)
            seen = (view.n_obs >= 20) & (view.gap <= 28) & np.isfinite(y).any(axis=1)
            safe = models.predict(models.fit("last_value", view), view, H, LEVELS)
            mine, theirs = (
                loss(q[seen], y[seen], view.last_value[seen]) for q in (lstm.forecast(base, view, H, LEVELS).q, safe)
            )
            gains.append(1 - mine.mean() / theirs.mean())
            pooled.append((mine.sum(), theirs.sum()))
    mine, theirs = np.sum(pooled, axis=0)
    assert 1 - mine / theirs > 0.03 and np.mean(np.array(gains) > 0) > 0.7, (1 - mine / theirs, gains)


def test_it_knows_a_change_from_a_stay(base):
    """On shops that it has not seen: a higher probability where prices did change, and about as many changes as came."""
    panel = processes.shops(40, 12, 200, 2001)  # many: what a few shops do together in one week says little
    view, y = panel.until(panel.dates[-8]), panel.after(panel.dates[-8], H)
    p = lstm.forecast(base, view, H, LEVELS).p_change
    event = scores.changed(y, view.last_value)
    known = np.isfinite(event) & np.isfinite(p) & (view.gap <= 14)[:, None]
    changed = known & (event == 1)
    rate = event[known].mean()
    assert scores.average_precision(event[known], p[known]) > 2 * rate
    assert p[changed].mean() > 2 * p[known & (event == 0)].mean() and 0.6 < p[known].mean() / rate < 1.6


def test_fine_tuning_it_leaves_the_shipped_files_alone(base):
    before = {p.name: p.read_bytes() for p in lstm.BASE.iterdir()}
    panel = processes.shops(1, 12, 120, 5)
    tuned = lstm.finetune(base, panel, epochs=1, max_steps=2)
    assert not any(v.requires_grad and v.grad is not None for v in base.net.parameters())
    assert tuned.net is not base.net and tuned.info["parent"] == models.SHIPPED
    again = lstm.shipped()
    assert all(torch.equal(v, again.net.state_dict()[k]) for k, v in base.net.state_dict().items())
    assert {p.name: p.read_bytes() for p in lstm.BASE.iterdir()} == before


def test_a_pretraining_is_the_same_to_the_byte(tmp_path, monkeypatch):
    small = dict(epochs=2, max_steps=6, validation_days=14, seed=1)
    for name, value in dict(SHOPS=3, ITEMS=8, DAYS=90, TRAINING=small).items():
        monkeypatch.setattr(pretrain, name, value)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))  # whatever the process drew before
        pretrain.pretrain(tmp_path / name)
    assert pretrain.corpus().y.shape == (24, 90)
    for file in ("model.json", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    described = json.loads((tmp_path / "a" / "model.json").read_text())
    assert described["info"]["id"] == models.SHIPPED and described["info"]["n_series"] == 24
    monkeypatch.setattr(pretrain, "SEED", 2)
    pretrain.pretrain(tmp_path / "c")
    assert (tmp_path / "c" / "weights.safetensors").read_bytes() != (tmp_path / "a" / "weights.safetensors").read_bytes()
    assert models.load(tmp_path / "a").hyper == {**lstm.DEFAULTS, **pretrain.TRAINING}
