"""What a job may ask: pydantic models of a params file, with a type, a range and a reason for every key.

``jobs.load`` reads ``params/<job>.yaml`` into them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import warnings
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator, model_validator

from .modelconfig import from_config
from .panel import year
from .trades import TRADES, Trade
from .yamlfile import merge

log = logging.getLogger("forecastbook")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class WarehousePrices(Section):
    """FactProductPrice joined with DimVariant and DimDate."""

    kind: Literal["warehouse_prices"] = "warehouse_prices"
    history_days: int = Field(400, ge=40, le=5000)  # days read: context for features, and what a first training sees
    sample_series: int = Field(500, ge=1, le=5000)  # products loaded when an empty embedded warehouse gets the sample
    positive: ClassVar[bool] = True
    past: ClassVar[tuple[str, ...]] = ("list_price",)
    future: ClassVar[tuple[str, ...]] = ()
    static: ClassVar[tuple[str, ...]] = ()


class WarehouseSales(Section):
    """FactSales joined with DimItem: one row an item and period, no row where nothing was sold."""

    kind: Literal["warehouse_sales"]
    history_days: int | None = Field(None, ge=40)  # days read; None: all of them
    sample_series: int = Field(3000, ge=1, le=20000)  # items loaded when an empty embedded warehouse gets the sample
    positive: ClassVar[bool] = False
    past: ClassVar[tuple[str, ...]] = ("price", "list_price", "promotion")
    future: ClassVar[tuple[str, ...]] = ()
    static: list[str] = ["department", "category", "brand"]  # keys of DimItem.attributes_json


class ShopFiles(Section):
    """A record shop's own files: a snapshot of the stock, and one row a copy sold. Without paths a generated shop."""

    kind: Literal["shop_files"]
    stock: str | None = None  # .xlsx, .xls or .csv: one row a record and lot, with its quantity
    sales: list[str] = []  # paths or globs: one row a copy sold
    cutoff: str | None = None  # day of the snapshot, 2022-09-30, 30.09.2022 or 30-09-2022; None: the day after the last sale
    sheet: str | None = None  # needed only where a workbook has several
    # complete a month that the files cover only in part by its mean day; else it is left out
    fill_last_month: StrictBool = False
    history_months: int | None = Field(None, ge=3)  # None: all of it
    positive: ClassVar[bool] = False
    past: ClassVar[tuple[str, ...]] = ("price", "price_band", "availability", "confidence", "lost_sales")
    future: ClassVar[tuple[str, ...]] = ()
    static: ClassVar[tuple[str, ...]] = ("cover_type", "release_type", "style", "recording_decade", "release_decade")

    @field_validator("cutoff", mode="before")
    @classmethod
    def _written(cls, given):
        return given.isoformat() if isinstance(given, date) else given  # YAML takes 2022-09-30 for a date

    @model_validator(mode="after")
    def _both(self) -> ShopFiles:
        if (self.stock is None) != (not self.sales):
            raise ValueError("stock and sales belong together: name both, or neither for the generated shop")
        return self


class Columns(Section):
    """What the file calls the columns that every source has."""

    series: str = "series_id"
    ts: str = "ts"
    y: str = "y"
    available: str | None = None
    title: str | None = None

    @model_validator(mode="after")
    def _each_its_own(self) -> Columns:
        named = [name for name in (self.series, self.ts, self.y, self.available) if name is not None]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"column {', '.join(twice)} cannot be more than one of series, ts, y and available")
        return self


RESERVED = {  # columns of our own tables
    *("series_id", "ts", "y", "available", "title", "source", "why", "refused"),
    *("last_value", "last_ts", "n_obs", "gap", "change_rate", "sale_rate", "stock", "lost_units"),
    *("total_units", "mean_units", "interval", "cv2", "demand_class"),
}


class File(Section):
    """Any long CSV or Parquet: one row a series and period."""

    kind: Literal["file"]
    path: str
    columns: Columns = Columns()
    static: list[str] = []  # columns fixed per series
    past: list[str] = []  # columns known up to the as-of date only
    future: list[str] = []  # columns known ahead
    history_days: int | None = Field(None, ge=40)  # None: all of it
    positive: StrictBool = True

    @model_validator(mode="after")
    def _covariates(self) -> File:
        named = [*self.static, *self.past, *self.future]
        if taken := sorted(set(named) & RESERVED):
            raise ValueError(f"static, past and future may not name {', '.join(taken)}: forecastbook has columns of that name")
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands in static, past and future more than once; a column is one of them")
        return self


class Eligible(Section):
    """Which series a model may forecast. The others get the safe baseline, or nothing when they are gone."""

    min_observations: int = Field(20, ge=2)  # fewer: forecast by the baseline and marked
    max_gap: int = Field(28, ge=1)  # periods without a reading, after which a series counts as gone


class Lstm(Section):
    """Hyperparameters of the network of prices; the first seven keep the names of the pipeline this replaces."""

    name: Literal["lstm"] = "lstm"
    # days that attention and the plain network look back over, a third of a crop, and the least history of an origin
    sequence_length: int = Field(30, ge=2, le=400)
    forecast_length: int | None = Field(None, ge=1)  # periods ahead it is trained for; None: the horizon
    hidden_size: int = Field(64, ge=2, le=1024)  # the plain network's default is 128, in 2 layers, as its checkpoints have
    num_layers: int = Field(1, ge=0, le=6)  # of the recurrence; 0: none, a network on the features of the day alone
    # crops (a series and some of its days) in a step; a fine-tune keeps its champion's
    batch_size: int = Field(64, ge=1, le=4096)
    learning_rate: float = Field(3e-3, gt=0, lt=1)  # of a training that does not go on from a champion, peak of its cycle
    epochs: int = Field(10, ge=1, le=1000)  # of a first training (no checkpoint to start from)
    max_steps: int = Field(300, ge=1)  # of all epochs together, of a training anew; of a fine-tune see finetune.max_steps
    dropout: float = Field(0.1, ge=0, lt=1)  # of a network trained anew; a fine-tune keeps its champion's
    attention: StrictBool = False  # of the decoder on the days before; make bench shows its price and its gain
    window: Literal["all", "single"] = "all"  # all origins at once, or the plain one-window network
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given):
        plain = isinstance(given, dict) and given.get("window") == "single"
        return {"hidden_size": 128, "num_layers": 2, "learning_rate": 1e-3} | given if plain else given

    @model_validator(mode="after")
    def _states(self) -> Lstm:
        if not self.num_layers and (self.attention or self.window == "single"):
            raise ValueError("num_layers 0 has no states: attention must be false, and window all")
        return self


class Tide(Section):
    """Hyperparameters of the network of sales: darts' TiDE with a head for counts or for quantiles.

    ``config``: a model_config JSON of the system that this replaces, as a path or as keys; what else is given is laid over it.
    """

    name: Literal["tide"]
    sequence_length: int = Field(8, ge=2, le=400)  # periods of the window; it reads smoothed what is further back
    forecast_length: int | None = Field(None, ge=1)  # periods ahead it is trained for; None: the horizon
    hidden_size: int = Field(64, ge=2, le=1024)
    num_encoder_layers: int = Field(1, ge=1, le=8)
    num_decoder_layers: int = Field(1, ge=1, le=8)
    decoder_output_dim: int = Field(16, ge=1, le=512)
    temporal_width_past: int = Field(0, ge=0, le=64)  # numbers a period that past covariates are projected to; 0: as they are
    temporal_width_future: int = Field(0, ge=0, le=64)
    temporal_hidden_size_past: int = Field(16, ge=1, le=512)
    temporal_hidden_size_future: int = Field(16, ge=1, le=512)
    temporal_decoder_hidden: int = Field(32, ge=1, le=512)
    use_layer_norm: StrictBool = False
    dropout: float = Field(0.2, ge=0, lt=1)
    covariates: StrictBool = False  # past covariates of the source, beside the sales themselves
    static_covariates: StrictBool = False  # categories, multi-hot
    seasonal: StrictBool | None = None  # year-ago sales and calendar; None: where the history holds them
    window_scale: StrictBool = True  # counts relative to their window's own level; false: raw counts, as darts has it
    head: Literal["nb", "zinb", "quantile"] = "zinb"  # negative binomial, with zero inflation, or the weighted quantile loss
    sigma_left: float | None = Field(None, gt=0, le=10)  # of the quantile loss's weights; None: all levels weigh the same
    sigma_right: float | None = Field(None, gt=0, le=10)
    weight_alpha: float = Field(0.0, ge=0, le=20)  # windows weigh by their past sales; 0: all the same
    batch_size: int = Field(512, ge=1, le=8192)  # windows in a step
    learning_rate: float = Field(3e-3, gt=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, lt=1)
    schedule: Literal["one_cycle", "cosine_restarts"] = "one_cycle"
    T_0: int = Field(130, ge=1)  # steps of the first cosine
    T_mult: int = Field(3, ge=1)
    gradient_clip: float = Field(1.0, ge=0)  # 0: none
    swa_start: float | None = Field(None, gt=0, lt=1)  # share of the epochs after which weights are averaged; None: never
    swa_lr: float = Field(1e-4, gt=0, lt=1)
    epochs: int = Field(5, ge=1, le=1000)  # of a first training
    max_steps: int = Field(2000, ge=1)  # of all epochs together: bounds a first training on any amount of data
    seeds: int = Field(3, ge=1, le=20)  # networks whose quantiles are averaged
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _from_config(cls, given):
        if not isinstance(given, dict) or given.get("config") is None:
            return given
        config = given["config"]
        if isinstance(config, str):
            if not Path(config).is_file():
                raise ValueError(f"config {config}: there is no such file; a relative path starts at {Path.cwd()}")
            config = Path(config).read_text(encoding="utf-8")
        found, own = from_config(config), {k: v for k, v in given.items() if k != "config"}
        for name, ours in {"seed": "seed", "levels": "quantiles"}.items():
            if name in found and found.pop(name) != Params.model_fields[ours].default:
                log.warning("model config: %s is left out, as it is the job's own: give it in the params", ours)
        if found.get("temporal_width_past") and not own.get("covariates"):
            log.warning("model config: temporal_width_past has no effect without model.covariates: true")
        return found | own

    @model_validator(mode="after")
    def _scaled(self) -> Tide:
        if not self.window_scale and self.head != "quantile":
            raise ValueError("a count head needs window_scale: on raw counts its mean runs away; set head to quantile")
        if not self.window_scale and (self.covariates or self.static_covariates or self.seasonal):
            raise ValueError("without window_scale the network reads raw counts, and no covariates, statics or seasons")
        return self


class Finetune(Section):
    base: str = "champion"  # champion (else the shipped base) | none | path of a checkpoint | anew: from nothing, each time
    days: int = Field(400, ge=10)  # origins of the last so many periods are trained on; few of them, and a network forgets
    epochs: int = Field(10, ge=1, le=1000)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    patience: int = Field(5, ge=1)  # epochs without progress on held-out origins before it stops
    validation_days: int = Field(14, ge=1)  # last periods kept from training, for early stopping and the gate
    max_steps: int = Field(200, ge=1)  # of all epochs together

    @property
    def hyper(self) -> dict:
        """As the networks take them."""
        return self.model_dump(exclude={"base", "days"}) | {"train_days": self.days}


class Backtest(Section):
    origins: int = Field(8, ge=1, le=400)  # rolling origins, the last one a horizon before the as-of date
    stride: int = Field(21, ge=1)  # periods between origins
    refits: int = Field(5, ge=1, le=50)  # how often a model is trained along the origins, the first time included


class Gate(Section):
    doubt: float = Field(0.25, ge=0, le=10)  # a gain must exceed zero by this many standard deviations to be published
    refuse_above: float | None = Field(None, gt=0)  # refuse to publish when the published relative MAE exceeds this


class Freshness(Section):
    max_age_days: int | None = Field(None, ge=0)  # newest day older than this against the clock; None: not checked
    action: Literal["warn", "stop"] = "warn"


class Tune(Section):
    use: StrictBool = True  # the winner of the last `make tune` is laid over model; false: the params stand as they are written
    trials: int = Field(12, ge=1, le=1000)
    budget_seconds: int = Field(600, ge=5)
    concurrent: int = Field(2, ge=1)
    grace: int = Field(2, ge=1)  # epochs before a weak trial may be stopped
    series: int = Field(300, ge=1)  # series a trial is trained on
    space: dict[str, list[Any]] = {
        "hidden_size": [32, 64, 128],
        "num_layers": [0, 1, 2],
        "learning_rate": [3e-4, 1e-2],
        "dropout": [0.0, 0.3],
        "batch_size": [32, 64, 128],
    }  # a list of choices; two floats are the ends of a log or linear range


class Publish(Section):
    table: Literal["FactPriceForecast", "FactSalesForecast"] = "FactPriceForecast"
    model_id: int = Field(100, ge=1, lt=2**63)
    enabled: StrictBool = True


DEFAULTS: dict[str, dict] = {  # of jobs that forecast something else than daily prices, by their network
    "tide": {
        "title": "Sales forecast",
        "freq": "W-MON",
        "horizon": 4,
        "service_levels": [0.8, 0.9, 0.99],
        "eligible": {"min_observations": 4, "max_gap": 52},
        "finetune": {"base": "anew", "days": 104, "epochs": 3, "patience": 2, "validation_days": 4, "max_steps": 600},
        "backtest": {"origins": 6, "stride": 4, "refits": 8},
        "tune": {
            "space": {
                "hidden_size": [32, 64, 128],
                "learning_rate": [3e-4, 1e-2],
                "dropout": [0.0, 0.3],
                "batch_size": [128, 256, 512],
            }
        },
        "publish": {"table": "FactSalesForecast", "model_id": 200},
    }
}
SOLD = {  # the sources that bring sales, and what their jobs have that others of sales have not
    "warehouse_sales": {},
    "shop_files": {
        "freq": "MS",
        "horizon": 3,
        "finetune": {"validation_days": 3},
        "backtest": {"stride": 1},
        "publish": {"model_id": 201},
    },
}


QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]


class Params(Section):
    """One job, whole. Read from yaml by ``jobs.load``; ``hash`` says whether two runs asked for the same thing."""

    title: str = "Price forecast"
    source: Annotated[WarehousePrices | WarehouseSales | ShopFiles | File, Field(discriminator="kind")] = WarehousePrices()
    max_series: int | None = Field(None, ge=1)  # only the first so many series by id: for a quick look
    freq: str = "D"
    horizon: int = Field(7, ge=1, le=365)
    quantiles: list[float] = QUANTILES
    service_levels: list[float] = []  # of sales: further quantiles, which a stock is planned by; in no quantile score
    seed: int = Field(7, ge=0, lt=2**31)
    eligible: Eligible = Eligible()
    model: Annotated[Lstm | Tide, Field(discriminator="name")] = Lstm()
    finetune: Finetune = Finetune()
    backtest: Backtest = Backtest()
    gate: Gate = Gate()
    freshness: Freshness = Freshness()
    tune: Tune = Tune()
    publish: Publish = Publish()

    @model_validator(mode="before")
    @classmethod
    def _trade_defaults(cls, given):
        """Lay the defaults of the job's trade under what is given: sales are not prices by another name."""
        if not isinstance(given, dict) or not isinstance(given.get("model", {}), dict):
            return given
        source, name = given["source"] if isinstance(given.get("source"), dict) else {}, network(given)
        space = (given.get("tune") or {}).get("space") if isinstance(given.get("tune"), dict) else None
        defaults = merge(DEFAULTS["tide"], SOLD.get(str(source.get("kind")), {})) if name == "tide" else {}
        given = merge(merge(defaults, {"model": {"name": name}}), given)
        if space is not None:
            given["tune"] = given["tune"] | {"space": space}  # a space is given whole
        if source.get("kind") == "file" and "positive" not in source:
            given["source"] = source | {"positive": name == "lstm"}
        return given

    @field_validator("service_levels")
    @classmethod
    def _services(cls, levels: list[float]) -> list[float]:
        if sorted(set(levels)) != levels or not all(0.5 < q < 1 for q in levels):
            raise ValueError("must rise strictly between 0.5 and 1")
        return _named(levels)

    @field_validator("quantiles")
    @classmethod
    def _levels(cls, levels: list[float]) -> list[float]:
        if sorted(set(levels)) != levels or not all(0 < q < 1 for q in levels):
            raise ValueError("must rise strictly between 0 and 1")
        if missing := {0.05, 0.5, 0.95} - set(levels):
            raise ValueError(f"must hold 0.05, 0.5 and 0.95 (bounds and point are read from them); missing {sorted(missing)}")
        return _named(levels)

    @field_validator("freq")
    @classmethod
    def _freq(cls, freq: str) -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of old spellings such as H: judged below
                step = pd.tseries.frequencies.to_offset(freq)
        except ValueError as error:
            raise ValueError(f"is not a pandas frequency such as D, W-MON or MS: {error}") from error
        days = pd.date_range("2024-01-01", periods=9, freq=step).normalize() if step.n > 0 else []
        if len(set(days)) < 9:  # periods are dates here: no hours, no steps of nothing
            raise ValueError("must be a step of a day or more, such as D, W-MON or MS")
        return step.freqstr  # as pandas writes it: d is D, and W is W-SUN

    @model_validator(mode="after")
    def _fits_together(self) -> Params:
        if self.model.name == "lstm" and not self.source.positive:
            if self.source.kind in SOLD:
                raise ValueError(f"model.name lstm forecasts prices, but source.kind {self.source.kind} brings sales")
            raise ValueError("source.positive is false, but the lstm forecasts ratios of prices and needs values above 0")
        if self.model.name == "tide" and self.source.kind == "warehouse_prices":
            raise ValueError("model.name tide forecasts sales, but source.kind warehouse_prices brings prices")
        if self.trade.name == "sales" and self.quantiles != QUANTILES:
            raise ValueError(
                f"quantiles of sales are {QUANTILES}, which FactSalesForecast has; further levels go into service_levels, "
                f"got {self.quantiles}"
            )
        if self.trade.name == "prices" and self.service_levels:
            raise ValueError("service_levels are what a stock of sales is planned by: a job of prices has none, leave them out")
        if (self.publish.table == "FactSalesForecast") != (self.trade.name == "sales"):
            raise ValueError(f"publish.table {self.publish.table} is not where {self.trade.name} go")
        for name, values in self.tune.space.items():
            known = type(self.model).model_fields
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
                raise ValueError(f"tune.space.{name} is no key of model" + (f" (nearest: {near[0]})" if near else ""))
            if not values:
                raise ValueError(f"tune.space.{name} is an empty list: give values to try, or leave it out")
            for value in values:
                try:
                    type(self.model).model_validate({"name": self.model.name, name: value})
                except ValidationError as error:
                    raise ValueError(f"tune.space.{name} holds {value!r}: {error.errors()[0]['msg']}") from None
        if self.model.forecast_length is not None and self.model.forecast_length < self.horizon:
            raise ValueError(f"model.forecast_length {self.model.forecast_length} is shorter than horizon {self.horizon}")
        ahead, back = self.model.forecast_length or self.horizon, year(self.freq)
        if self.model.name == "tide" and self.model.seasonal and ahead >= back:
            raise ValueError(f"model.seasonal looks {back} periods back and cannot serve {ahead} periods ahead: leave it out")
        return self

    @property
    def trade(self) -> Trade:
        """What is forecast: prices or sales."""
        return TRADES[self.model.name]

    @property
    def unread(self) -> list[str]:
        """Columns of the source that no model of the job reads."""
        return self.trade.unread(self.source.past, self.source.future, self.source.static)

    @property
    def levels(self) -> list[float]:
        """All quantile levels that are forecast, rising: ``quantiles`` and ``service_levels``."""
        return sorted({*self.quantiles, *self.service_levels})

    @property
    def scored(self) -> list[int]:
        """Places among ``levels`` of the ``quantiles``: what quantile scores are made of."""
        return [self.levels.index(level) for level in self.quantiles]

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON of every value."""
        return digest(self.model_dump(mode="json"))[:12]


def _named(levels: list[float]) -> list[float]:
    """Quantile levels that each have a column of their own. Raises ValueError for one whose name would be cut short."""
    if long := [level for level in levels if round(level, 4) != level]:
        raise ValueError(f"a column is named by each, so they may have four decimals: {long[0]!r} has more")
    return levels


def hyperparameters(name: str, given: dict) -> dict:
    """The section ``model`` of the named network, from what is given of it: complete, and every value in its range.

    Names that the section has not are left out. Raises ValueError that names the first key at fault.
    """
    section = {"lstm": Lstm, "tide": Tide}[name]
    try:
        checked = section.model_validate({"name": name} | {k: v for k, v in given.items() if k in section.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        shown = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise ValueError(where + first["msg"].removeprefix("Value error, ") + shown) from None
    return {k: v for k, v in checked.model_dump(exclude={"name"}).items() if k != "forecast_length" or v is not None}


def network(given: dict) -> str:
    """The network that a job's params name; where they do not, the one of prices, or of sales if the source brings those."""
    model, source = (given[part] if isinstance(given.get(part), dict) else {} for part in ("model", "source"))
    return model.get("name") or ("tide" if source.get("kind") in list(SOLD) else "lstm")


def digest(value) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
