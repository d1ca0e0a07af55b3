"""Make the base network that the package carries: ``make pretrain``, or ``python -m forecastbook.pretrain [DIRECTORY]``.

It learns from generated price processes alone, so it has seen no shop's prices: what it knows is how posted prices behave.
Features are ratios, so neither currency nor size matters. Same machine, same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from forecastbook import lstm, models, processes
from forecastbook.panel import Panel

SHOPS, ITEMS, DAYS, SEED = 100, 30, 400, 1
TRAINING = dict(epochs=20, max_steps=1600, learning_rate=2e-3, validation_days=14, seed=SEED)


def corpus() -> Panel:
    """The generated shops that the base network learns from, side by side: (SHOPS * ITEMS, DAYS)."""
    return processes.shops(SHOPS, ITEMS, DAYS, SEED)


def pretrain(directory: Path) -> lstm.Model:
    """Train the base network and save it in the form of any model: weights.safetensors and model.json."""
    model = lstm.fit(corpus(), **TRAINING)
    model.info |= {"id": models.SHIPPED}
    lstm.save(model, directory)
    return model


if __name__ == "__main__":
    made = pretrain(Path(sys.argv[1]) if len(sys.argv) > 1 else lstm.BASE)
    loss = min(row["validation_loss"] for row in made.history)
    print(f"{made.info['parameters']:,} weights, {made.info['n_series']:,} series, validation loss {loss:.4f}")
