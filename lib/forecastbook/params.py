"""A job is a params file: pydantic models with a type, a range and a reason for every key.

``load`` reads ``params/<job>.yaml``, lays overlays over it in order and validates the whole. An unknown key is refused by
name with the nearest known one; a key written twice, a tag such as ``!!python/object`` or a number that YAML reads as text
(``1e-3``) is refused with its place.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator, model_validator


class ParamsError(ValueError):
    """A params file that cannot be run as it is written."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class WarehousePrices(Section):
    """FactProductPrice joined with DimVariant and DimDate."""

    kind: Literal["warehouse_prices"] = "warehouse_prices"
    history_days: int = Field(400, ge=40, le=5000)  # days read: context for features, and what a first training sees
    sample_series: int = Field(500, ge=1, le=5000)  # products loaded when an empty embedded warehouse gets the sample
    positive: ClassVar[bool] = True
    past: ClassVar[tuple[str, ...]] = ("list_price",)
    future: ClassVar[tuple[str, ...]] = ()
    static: ClassVar[tuple[str, ...]] = ()


class Columns(Section):
    """What the file calls the columns that every source has."""

    series: str = "series_id"
    ts: str = "ts"
    y: str = "y"
    available: str | None = None
    title: str | None = None


RESERVED = set(
    [
        "series_id",
        "ts",
        "y",
        "available",
        "title",
        "last_value",
        "last_ts",
        "n_obs",
        "gap",
        "change_rate",
        "demand_class",
        "source",
        "why",
    ]
)


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
    """Which series a model may forecast. The others get the last value, or nothing when they are gone."""

    min_observations: int = Field(20, ge=2)  # fewer: forecast by the baseline and marked
    max_gap: int = Field(28, ge=1)  # periods without a reading, after which a series counts as gone


class Model(Section):
    """Hyperparameters of the network; the first seven keep the names of the pipeline this replaces."""

    name: Literal["lstm"] = "lstm"
    sequence_length: int = Field(30, ge=2, le=400)  # periods of context a forecast needs and attention looks back on
    forecast_length: int | None = Field(None, ge=1)  # periods ahead it is trained for; None: the horizon
    hidden_size: int = Field(64, ge=2, le=1024)  # the plain network's default is 128, in 2 layers, as its checkpoints have
    num_layers: int = Field(1, ge=0, le=6)  # of the recurrence; 0: none, a network on the features of the day alone
    batch_size: int = Field(64, ge=1, le=4096)  # series in a step
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    epochs: int = Field(10, ge=1, le=1000)  # of a first training (no checkpoint to start from)
    max_steps: int = Field(300, ge=1)  # of all epochs together: bounds a first training on any amount of data
    dropout: float = Field(0.1, ge=0, lt=1)
    attention: StrictBool = False  # of the decoder on the days before; make bench shows its price and its gain
    window: Literal["all", "single"] = "all"  # all origins at once, or the plain one-window network
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given):
        plain = isinstance(given, dict) and given.get("window") == "single"
        return {"hidden_size": 128, "num_layers": 2} | given if plain else given

    @model_validator(mode="after")
    def _states(self) -> Model:
        if not self.num_layers and (self.attention or self.window == "single"):
            raise ValueError("num_layers 0 has no states: attention must be false, and window all")
        return self


class Finetune(Section):
    base: str = "champion"  # champion (else the shipped base) | none: from nothing | path of a checkpoint
    days: int = Field(60, ge=10)  # origins of the last so many periods are trained on
    epochs: int = Field(10, ge=1, le=1000)
    learning_rate: float = Field(5e-4, gt=0, lt=1)
    patience: int = Field(5, ge=1)  # epochs without progress on held-out origins before it stops
    validation_days: int = Field(14, ge=1)  # last periods kept from training, for early stopping and the gate


class Backtest(Section):
    origins: int = Field(8, ge=1, le=400)  # rolling origins, the last one a horizon before the as-of date
    stride: int = Field(21, ge=1)  # periods between origins
    refits: int = Field(5, ge=1, le=50)  # how often the model is trained again along the origins


class Gate(Section):
    doubt: float = Field(0.25, ge=0, le=10)  # standard deviations by which a gain must be clear of nothing to be published
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
        "learning_rate": [3e-4, 3e-3],
        "dropout": [0.0, 0.3],
        "batch_size": [32, 64, 128],
    }  # a list of choices; two floats are the ends of a log or linear range


class Publish(Section):
    table: Literal["FactPriceForecast", "FactSalesForecast"] = "FactPriceForecast"
    model_id: int = Field(100, ge=1)
    enabled: StrictBool = True


class Params(Section):
    """One job, whole. Read from yaml by ``load``; ``hash`` says whether two runs asked for the same thing."""

    title: str = "Price forecast"
    source: Annotated[WarehousePrices | File, Field(discriminator="kind")] = WarehousePrices()
    max_series: int | None = Field(None, ge=1)  # only the first so many series by id: for a quick look
    freq: str = "D"
    horizon: int = Field(7, ge=1, le=365)
    quantiles: list[float] = [0.05, 0.25, 0.5, 0.75, 0.95]
    seed: int = Field(7, ge=0)
    eligible: Eligible = Eligible()
    model: Model = Model()
    finetune: Finetune = Finetune()
    backtest: Backtest = Backtest()
    gate: Gate = Gate()
    freshness: Freshness = Freshness()
    tune: Tune = Tune()
    publish: Publish = Publish()

    @field_validator("quantiles")
    @classmethod
    def _levels(cls, levels: list[float]) -> list[float]:
        if sorted(set(levels)) != levels or not all(0 < q < 1 for q in levels):
            raise ValueError("must rise strictly between 0 and 1")
        if missing := {0.05, 0.5, 0.95} - set(levels):
            raise ValueError(f"must hold 0.05, 0.5 and 0.95 (bounds and point are read from them); missing {sorted(missing)}")
        return levels

    @field_validator("freq")
    @classmethod
    def _freq(cls, freq: str) -> str:
        try:
            step = pd.tseries.frequencies.to_offset(freq)
        except ValueError as error:
            raise ValueError(f"is not a pandas frequency such as D, W-MON or MS: {error}") from error
        days = pd.date_range("2024-01-01", periods=9, freq=step).normalize() if step.n > 0 else []
        if len(set(days)) < 9:  # periods are dates here: no hours, no steps of nothing
            raise ValueError("must be a step of a day or more, such as D, W-MON or MS")
        return freq

    @model_validator(mode="after")
    def _fits_together(self) -> Params:
        if self.model.name == "lstm" and not self.source.positive:
            raise ValueError("source.positive is false, but the lstm forecasts ratios of prices and needs values above 0")
        if self.model.forecast_length is not None and self.model.forecast_length < self.horizon:
            raise ValueError(f"model.forecast_length {self.model.forecast_length} is shorter than horizon {self.horizon}")
        return self

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON of every value."""
        return digest(self.model_dump(mode="json"))[:12]


def digest(value) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: dict = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ParamsError(f"{_place(key_node)}: key {key!r} is not text; write it in quotes")
        if key in seen:
            raise ParamsError(f"{_place(key_node)}: key {key!r} is written twice (first in line {seen[key]}); keep one")
        seen[key] = key_node.start_mark.line + 1
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


def _place(node) -> str:
    return f"{node.start_mark.name}:{node.start_mark.line + 1}"


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    if re.fullmatch(r"[+-]?0[0-9_]+", node.value):  # YAML 1.1 reads 012 as octal, which nobody means
        raise ParamsError(f"{_place(node)}: {node.value} has a leading zero; write {int(node.value)} or quote it as text")
    return yaml.SafeLoader.construct_yaml_int(loader, node)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(path: Path) -> dict:
    """One params file as a plain dict. Errors name the file and line."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1, cutoff=0.4)
        raise ParamsError(f"{path}: there is no such params file" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        with path.open(encoding="utf-8-sig") as stream:
            data = yaml.load(stream, Loader=_Loader)  # noqa: S506  (a SafeLoader that refuses more)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ParamsError(f"{path}: holds a {type(data).__name__}, wanted keys and values")
    return data


def merge(base: dict, over: dict) -> dict:
    """``over`` laid over ``base``, deeply. A mapping whose ``kind`` changes is replaced: its keys mean nothing there."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def load(path: str | Path, overlays: list[str | Path] = (), tuned: dict | None = None) -> Params:
    """The params of a job: its yaml, each overlay over it in order, then the last tuning's winner unless ``tune.use`` is false.

    Raises ParamsError that lists every fault: file, key, what was given, what is wanted.
    """
    path = Path(path)
    data = read_yaml(path)
    for overlay in overlays:
        data = merge(data, read_yaml(Path(overlay)))
    asked = data.get("tune")
    if tuned and not (isinstance(asked, dict) and asked.get("use") is False):
        data = merge(data, {"model": {k: v for k, v in tuned.items() if k in Model.model_fields}})
    where = " + ".join(str(p) for p in [path, *overlays])
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(where, data, e) for e in error.errors())) from None


def _explain(where: str, data: dict, error: dict) -> str:
    loc = list(error["loc"])
    if loc[:1] == ["source"]:
        del loc[1:2]  # pydantic's tag of the kind of source
    key = ".".join(str(part) for part in loc) or "(whole file)"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _known(loc[:-1], data), n=1, cutoff=0.5)
        return f"{where}: unknown key {key}" + (
            f"; did you mean {near[0]}?" if near else f"; known: {', '.join(_known(loc[:-1], data))}"
        )
    if error["type"] == "union_tag_not_found":
        return f"{where}: {key}: kind is missing; wanted warehouse_prices or file"
    given = error.get("input")
    hint = " (YAML reads yes, no, on and off as true and false: quote text)" if isinstance(given, bool) else ""
    if isinstance(given, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", given):
        hint = f" (YAML reads {given} as text: write {float(given)})"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, dict) and error["type"] != "union_tag_invalid" else f", got {given!r}"
    return f"{where}: {key}: {message}{shown}{hint}"


def _known(loc: list, data: dict) -> list[str]:
    section: Any = Params
    for part in loc:
        field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
        if field is None:
            return []
        section = field.annotation
        if part == "source":
            section = File if (data.get("source") or {}).get("kind") == "file" else WarehousePrices
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def as_of_date(text: str) -> dt.date:
    """An as-of date in the one accepted form, YYYY-MM-DD. Raises ParamsError for anything else: it names a directory."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ParamsError(f"AS_OF {text!r}: wanted YYYY-MM-DD, such as 2026-01-05")
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise ParamsError(f"AS_OF {text!r}: {error}; wanted a real date as YYYY-MM-DD") from error


def job_name(text: str) -> str:
    """A job's name: letters, digits, dash and underscore, so that it can name a file and a directory."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text):
        raise ParamsError(f"JOB {text!r}: wanted the name of a file in params/, such as prices (letters, digits, - and _)")
    return text
