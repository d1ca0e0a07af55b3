"""Params: what is accepted, and that every refusal names file, key, what was given and what is wanted."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tiny
from forecastbook.jobs import as_of_date, job_name, load
from forecastbook.jobs import path as job_path
from forecastbook.params import Columns, File, Params, WarehousePrices, digest
from forecastbook.yamlfile import ParamsError, merge

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SHIPPED = sorted((Path(__file__).parent.parent / "params").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def make(text: str, name: str = "job.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def refused(path, *words, overlays=()):
    with pytest.raises(ParamsError) as error:
        load(path, overlays)
    message = str(error.value)
    assert str(path) in message and "Traceback" not in message
    for word in words:
        assert word in message, message
    return message


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("horizn: 7", ["unknown key horizn", "did you mean horizon?"]),
        ("model: {hiden_size: 8}", ["unknown key model.hiden_size", "did you mean hidden_size?"]),
        ("source: {kind: warehouse_prices, histori_days: 90}", ["source.histori_days", "did you mean history_days?"]),
        ("source: {kind: file, path: a.csv, columns: {serie: a}}", ["source.columns.serie", "did you mean series?"]),
        ("source: {kind: file, path: a.csv, file: b.csv}", ["unknown key source.file"]),
        ("file: prices.csv", ["unknown key file"]),
        ("warehouse_prices: {}", ["unknown key warehouse_prices"]),
        ("zzzzzz: 1", ["unknown key zzzzzz", "known:", "horizon"]),
        ("'x; import os; os.abort() #': 1", ["unknown key x; import os"]),
        ("horizon: 7\nhorizon: 8", ["'horizon' is written twice", "job.yaml:2", "line 1"]),
        ("model:\n  epochs: 1\n  dropout: 0.1\n  epochs: 2", ["'epochs' is written twice", "job.yaml:4", "line 2"]),
        ("model: {learning_rate: 1e-3}", ["model.learning_rate", "'1e-3'", "write 0.001"]),
        ("title: no", ["title", "got False", "yes, no, on and off"]),
        ("publish: {enabled: 'yes'}", ["publish.enabled", "got 'yes'"]),
        ("horizon: 012", ["leading zero", "write 12", "job.yaml:1"]),
        ("horizon: 1:30", ["1:30 is no number", "job.yaml:1"]),
        ("source: {kind: file, path: a.csv, columns: {series: id, ts: id}}", ["column id cannot be more than one of"]),
        ("horizon: 7.5", ["horizon", "got 7.5"]),
        ("horizon: '7'", ["horizon", "got '7'"]),
        ("horizon: 0", ["horizon", "greater than or equal to 1", "got 0"]),
        ("model: {dropout: 1}", ["model.dropout", "less than 1"]),
        ("model: {learning_rate: .nan}", ["model.learning_rate"]),
        ("title: !!python/object/apply:os.system ['touch /tmp/never']", ["not valid YAML", "python/object"]),
        ("gate: {doubt: -1.0}", ["gate.doubt", "greater than or equal to 0"]),
        ("gate: {handicap: 0.05}", ["unknown key gate.handicap", "known: doubt, refuse_above"]),
        ("model: {num_layers: 0, attention: true}", ["model", "num_layers 0 has no states"]),
        ("model: {num_layers: 0, window: single}", ["model", "num_layers 0 has no states"]),
        ("model: {num_layers: -1}", ["model.num_layers", "greater than or equal to 0"]),
        ("a: [1", ["not valid YAML"]),
        ("- 1", ["holds a list", "wanted keys and values"]),
        ("1: a", ["key 1 is not text"]),
        ("source: {history_days: 90}", ["source", "kind is missing"]),
        ("source: {kind: mystery}", ["source", "mystery"]),
        ("source: warehouse_prices", ["source"]),
        ("model: lstm", ["model"]),
        ("quantiles: [0.05, 0.5]", ["quantiles", "missing [0.95]"]),
        ("quantiles: [0.05, 0.95, 0.5]", ["quantiles", "rise strictly"]),
        ("quantiles: [0.05, 0.5, 0.5, 0.95]", ["quantiles", "rise strictly"]),
        ("quantiles: [0.0, 0.05, 0.5, 0.95]", ["quantiles", "between 0 and 1"]),
        ("freq: fortnight", ["freq", "not a pandas frequency"]),
        ("freq: h", ["freq", "day"]),
        ("freq: -1D", ["freq"]),
        ("freq: 0D", ["freq"]),
        ("freq: H", ["freq", "a day or more"]),
        ("backtest:", ["backtest is empty: give its keys or leave it out"]),
        ("source:", ["source is empty: give its keys"]),
        ("horizon:", ["horizon is empty: give its value or leave it out"]),
        ("service_levels: [0.9]", ["service_levels", "a job of prices has none"]),
        ("horizon: 9\nmodel: {forecast_length: 7}", ["forecast_length 7 is shorter than horizon 9"]),
        ("tune: {space: {hiden_size: [4, 8]}}", ["tune.space.hiden_size is no key of model (nearest: hidden_size)"]),
        ("tune: {space: {hidden_size: []}}", ["tune.space.hidden_size is an empty list"]),
        ("seed: 99999999999999", ["seed", "less than"]),
    ],
)
def test_a_refusal_names_the_file_the_key_and_what_is_wanted(write, text, words):
    refused(write(text), *words)


def test_all_faults_are_listed_at_once(write):
    message = refused(write("horizn: 7\nmodel: {epochs: 0, dropout: 2}"), "horizn", "model.epochs", "model.dropout")
    assert len(message.splitlines()) == 3


def test_a_missing_file_names_the_nearest_one(write, tmp_path):
    write("", "prices.yaml")
    refused(tmp_path / "price.yaml", "there is no such params file", "did you mean prices.yaml?")


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"title: \xff\xfe")
    refused(path, "not")


def test_a_python_tag_runs_nothing(write, tmp_path):
    planted = tmp_path / "planted"
    refused(write(f"title: !!python/object/apply:pathlib.Path.touch ['{planted}']"))
    assert not planted.exists()


def test_an_old_spelling_of_a_frequency_is_refused_without_a_word_from_pandas(write, recwarn):
    refused(write("freq: H"), "a day or more")
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]


# ---- what is accepted


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\ufeff", "---\n"])
def test_an_empty_file_is_all_defaults(write, text):
    assert load(write(text)) == Params()


def test_the_plain_network_has_sizes_of_its_own_unless_they_are_given(write):
    plain, own = (load(write(f"model: {{window: single{more}}}")).model for more in ("", ", hidden_size: 8"))
    assert (plain.hidden_size, plain.num_layers, own.hidden_size, own.num_layers) == (128, 2, 8, 2)
    assert (Params().model.hidden_size, Params().model.num_layers) == (64, 1)


@pytest.mark.parametrize(
    "given, kept", [("w-mon", "W-MON"), ("d", "D"), ("1D", "D"), ("W", "W-SUN"), ("M", "ME"), ("MS", "MS")]
)
def test_a_frequency_is_kept_as_pandas_writes_it(write, given, kept, recwarn):
    """Its first letter tells how many periods a year has: of w-mon nobody would know."""
    assert load(write(f"freq: {given}")).freq == kept and not [w for w in recwarn if "deprecated" in str(w.message)]


def test_an_overlay_is_no_job(write):
    mine = write("source: {kind: file, path: a.csv}", "mine.yaml")
    assert job_path(mine.parent, "mine") == mine
    write("horizon: 3", "quick.yaml")
    with pytest.raises(ParamsError, match=r"quick.yaml: holds no source, so it is no job but an overlay: give it as PARAMS="):
        job_path(mine.parent, "quick")
    with pytest.raises(ParamsError, match="did you mean mine.yaml"):
        job_path(mine.parent, "mime")


def test_an_anchor_is_merged_into_another_mapping(write):
    shared = "model: &sizes {hidden_size: 8, dropout: 0.3}\n"
    got = load(
        write(shared + "tune: {space: {hidden_size: [8]}}"),
        [write("model:\n  <<: {hidden_size: 16, dropout: 0.9}\n  dropout: 0.2", "b.yaml")],
    )
    assert (got.model.hidden_size, got.model.dropout) == (16, 0.2)


def test_overlays_are_laid_in_order_and_the_last_word_counts(write):
    base = write("horizon: 3\nmodel: {epochs: 2, dropout: 0.3}")
    first, second = write("horizon: 4\nmodel: {epochs: 5}", "a.yaml"), write("model: {epochs: 6}", "b.yaml")
    got = load(base, [first, second])
    assert (got.horizon, got.model.epochs, got.model.dropout) == (4, 6, 0.3)
    assert load(base, [second, first]).model.epochs == 5


def test_a_fault_in_an_overlay_names_that_file_too(write):
    over = write("horizn: 1", "over.yaml")
    refused(write(""), str(over), "horizn", overlays=[over])


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL), ids=lambda block: block.split(":")[0])
def test_each_yaml_of_the_readme_is_a_job_of_its_own(block, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "model_config.json").write_text(json.dumps(OLD_CONFIG))
    source = "" if "source:" in block else "source: {kind: file, path: a.csv}\n"
    assert load(write(block + source)).horizon


def test_a_source_that_brings_sales_makes_a_job_of_sales(write):
    shop = load(write("source: {kind: shop_files, stock: stock.xlsx, sales: [a.xlsx]}"))
    vinyl = load(next(path for path in SHIPPED if path.stem == "vinyl"))
    ours, theirs = (
        shop.model_dump(exclude={"source", "title", "publish"}),
        vinyl.model_dump(exclude={"source", "title", "publish"}),
    )
    assert ours == theirs and shop.trade.name == "sales" and shop.publish.table == "FactSalesForecast"
    weekly = load(write("source: {kind: warehouse_sales}"))
    assert (weekly.model.name, weekly.freq, weekly.horizon) == ("tide", "W-MON", 4)
    for bad, said in {
        "source: {kind: shop_files, stock: a.xlsx, sales: [b.xlsx], cutoff: 2022-02-30}": "job.yaml:1: 2022-02-30 is no date",
        "a: " + 3000 * "[": "hundreds deep",
        "tune: {space: {hidden_size: [a, b]}}": "tune.space.hidden_size holds 'a'",
        "tune: {space: {learning_rate: [-1.0, 5.0]}}": "tune.space.learning_rate holds -1.0",
        "publish: {model_id: 99999999999999999999}": "publish.model_id",
        "gate: {refuse_above: .inf}": "gate.refuse_above",
        "{model: {name: tide, seasonal: true}, source: {kind: shop_files}, horizon: 12}": "cannot serve 12 periods ahead",
    }.items():
        refused(write(bad), said)
    for cutoff in ("2022-09-30", "'2022-09-30'"):
        dated = load(write(f"source: {{kind: shop_files, stock: stock.xlsx, sales: [a.xlsx], cutoff: {cutoff}}}"))
        assert dated.source.cutoff == "2022-09-30"
    own = load(write("source: {kind: shop_files}\nhorizon: 1\nfinetune: {validation_days: 5}"))
    assert (own.horizon, own.finetune.validation_days, own.finetune.base) == (1, 5, "anew")


def test_a_tuned_network_of_sales_keeps_all_that_was_chosen_though_nobody_names_it(write):
    job = write("source: {kind: shop_files}")
    assert load(job, tuned={"num_encoder_layers": 3, "dropout": 0.2}).model.num_encoder_layers == 3
    refused(write("{source: {kind: shop_files}, model: {num_encoder_layer: 2}}"), "did you mean num_encoder_layers?")


def test_levels_that_would_share_a_column_are_refused(write):
    refused(write("quantiles: [0.05, 0.5, 0.9, 0.90001, 0.95]"), "quantiles", "four decimals", "0.90001")
    refused(write("{source: {kind: warehouse_sales}, service_levels: [0.99996]}"), "service_levels", "four decimals")


def test_a_changed_network_replaces_the_whole_model(write):
    base = write("{source: {kind: file, path: a.csv}, model: {name: lstm, attention: true, epochs: 3}}")
    assert load(base, [write("model: {name: tide}", "own.yaml")]).model.name == "tide"
    assert load(base, [write("model: {name: lstm, epochs: 4}", "same.yaml")]).model.attention


def test_a_changed_kind_replaces_the_whole_source(write):
    base = write("source: {kind: warehouse_prices, sample_series: 20}")
    got = load(base, [write("source: {kind: file, path: a.csv}", "own.yaml")])
    assert got.source == File(kind="file", path="a.csv")
    kept = load(base, [write("source: {history_days: 90}", "same.yaml")])
    assert kept.source == WarehousePrices(history_days=90, sample_series=20)


def test_the_tuned_winner_lies_over_job_and_overlays_unless_it_is_switched_off(write):
    base, over = write("model: {epochs: 3, dropout: 0.2}"), write("model: {epochs: 9}", "over.yaml")
    tuned = {"dropout": 0.4, "no_such_hyperparameter": 1}
    got = load(base, [over], tuned=tuned)
    assert (got.model.epochs, got.model.dropout) == (9, 0.4)
    off = load(base, [over, write("tune: {use: false}", "off.yaml")], tuned=tuned)
    assert (off.model.epochs, off.model.dropout) == (9, 0.2)


def test_columns_of_a_file_have_their_defaults(write):
    got = load(write("source: {kind: file, path: a.csv, columns: {series: sku}}"))
    assert got.source.columns == Columns(series="sku", ts="ts", y="y")


def test_ids_and_titles_written_with_quotes_stay_text(write):
    assert load(write("title: '012'")).title == "012"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_file_loads_with_each_of_its_keys(path):
    jobs = [p for p in SHIPPED if p.name != "smoke.yaml"]  # that one is an overlay for any of them
    import yaml

    written = yaml.safe_load(path.read_text(encoding="utf-8"))

    def held(part, whole, where=""):
        for key, value in part.items():
            if isinstance(value, dict) and key != "space":
                held(value, whole[key], f"{where}{key}.")
            elif key == "space":
                assert whole[key] | value == whole[key], where + key
            else:
                assert whole[key] == value, where + key

    assert path in jobs or jobs
    for base, over in [(path, [])] if path in jobs else [(job, [path]) for job in jobs]:
        held(written, load(base, over).model_dump())


# ---- the hash


def test_the_hash_is_blind_to_the_order_of_keys_and_sees_every_value(write):
    a = load(write("horizon: 3\nmodel: {epochs: 2, dropout: 0.2}", "a.yaml"))
    b = load(write("model: {dropout: 0.2, epochs: 2}\nhorizon: 3", "b.yaml"))
    assert a.hash() == b.hash() and len(a.hash()) == 12


def _leaves(value, path=()):
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    elif not isinstance(value, (list, str)):
        yield path, value


def test_every_number_and_switch_counts_in_the_hash():
    plain = tiny().model_dump(mode="json")
    seen = {digest(plain)}
    for path, value in _leaves(plain):
        other = json.loads(json.dumps(plain))
        spot = other
        for key in path[:-1]:
            spot = spot[key]
        spot[path[-1]] = (not value) if isinstance(value, bool) else (value or 0) + 1
        seen.add(digest(other))
    assert len(seen) == 1 + len(list(_leaves(plain)))


OTHERS = [
    *({"seed": 8}, {"horizon": 6}, {"title": "x"}, {"freq": "2D"}, {"max_series": 5}, {"quantiles": [0.05, 0.5, 0.95]}),
    *({"source": {"kind": "file", "path": "a"}}, {"eligible": {"max_gap": 9}}, {"model": {"dropout": 0.2}}),
    *({"finetune": {"base": "none"}}, {"backtest": {"stride": 8}}, {"gate": {"doubt": 3.0}}, {"publish": {"model_id": 5}}),
    *({"freshness": {"action": "stop"}}, {"tune": {"space": {"dropout": [0.0, 0.1]}}}),
]


def test_runs_that_ask_for_something_else_have_another_hash():
    assert len({tiny(**other).hash() for other in [{}, *OTHERS]}) == 1 + len(OTHERS)


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=3), max_size=5), st.randoms())
def test_digest_depends_on_content_only(data, random):
    keys = list(data)
    random.shuffle(keys)
    assert digest({k: data[k] for k in keys}) == digest(data)


@given(st.dictionaries(st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("xy"), st.integers())))
def test_merging_a_mapping_with_itself_or_nothing_changes_nothing(data):
    assert merge(data, data) == data == merge(data, {}) == merge({}, data)


# ---- names that become paths


@pytest.mark.parametrize(
    "text",
    [
        "../../x",
        "2026-13-01",
        "2026-1-5",
        "２０２６-01-01",
        "2026-02-30",
        "2026-01-01\n",
        " 2026-01-01",
        "20260101",
        "today",
        "",
    ],
)
def test_an_as_of_date_has_one_form(text):
    with pytest.raises(ParamsError, match="AS_OF") as error:
        as_of_date(text)
    assert "YYYY-MM-DD" in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_real_date_is_taken():
    assert as_of_date("2024-02-29") == dt.date(2024, 2, 29)


@pytest.mark.parametrize("text", ["..", "../x", "a/b", "", "-x", "a b", "a\n", "x;rm", "é", "a" * 65, "a.b"])
def test_a_job_name_cannot_leave_its_directory(text):
    with pytest.raises(ParamsError, match="JOB"):
        job_name(text)


def test_an_ordinary_job_name_is_taken():
    assert job_name("prices_2-b") == "prices_2-b"


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ("past: [y]", "may not name y"),
        ("static: [source, gap]", "may not name gap, source"),
        ("static: [a], past: [a]", "a stands in"),
    ],
)
def test_covariates_may_not_take_our_names(write, lists, said):
    with pytest.raises(ParamsError, match=said):
        load(write(f"source: {{kind: file, path: a.csv, {lists}}}"))


def test_columns_that_no_model_of_prices_reads_are_known(write):
    lists = "past: [cost, list_price], future: [promo], static: [brand]"
    assert load(write(f"source: {{kind: file, path: a.csv, {lists}}}")).unread == ["cost", "promo", "brand"]
    assert load(write("source: {kind: file, path: a.csv, past: [list_price]}")).unread == []
    sales = f"source: {{kind: file, path: a.csv, positive: false, {lists}}}\nmodel: {{name: tide}}"
    assert load(write(sales)).unread == [], "of sales all are read"


def test_a_network_of_ratios_needs_positive_values(write):
    with pytest.raises(ParamsError, match="needs values above 0"):
        load(write("source: {kind: file, path: a.csv, positive: false}"))


# --- sales jobs ---------------------------------------------------------------------------------------------------------

OLD_CONFIG = {
    "model_config": {"num_encoder_layers": 3, "num_decoder_layers": 2, "temporal_width_past": 2}
    | {"dropout": 0.5, "batch_size": 128},
    "optimizer_config": {"lr": 7.7e-05, "weight_decay": 0.0028},
    "lr_shed_config": {"T_0": 160, "T_mult": 1},
    "quantiles": [0.05, 0.25, 0.5, 0.75, 0.95],
}  # fmt: skip


def test_a_sales_job_has_the_defaults_of_its_trade():
    found = Params.model_validate({"model": {"name": "tide"}, "source": {"kind": "file", "path": "x.csv"}})
    assert found.trade.name == "sales" and found.publish.table == "FactSalesForecast" and found.source.positive is False
    assert (
        found.levels == [0.05, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95, 0.99]
        and [found.levels[i] for i in found.scored] == found.quantiles
    )
    assert Params.model_validate(found.model_dump(mode="json")) == found, "a manifest gives it back"
    given = {
        "model": {"name": "tide"},
        "source": {"kind": "file", "path": "x.csv"},
        "horizon": 2,
        "tune": {"space": {"dropout": [0.1]}},
    }
    mine = Params.model_validate(given)
    assert mine.horizon == 2 and mine.freq == "W-MON" and mine.tune.space == {"dropout": [0.1]}
    assert Params().levels == Params().quantiles and Params().trade.name == "prices"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": {"kind": "warehouse_prices"}}, "source.kind warehouse_prices brings prices"),
        ({"model": {"name": "lstm"}}, "model.name lstm forecasts prices, but source.kind shop_files brings sales"),
        ({"source": {"kind": "shop_files", "stock": "s.xlsx"}}, "stock and sales belong together"),
        ({"publish": {"table": "FactPriceForecast"}}, "is not where sales go"),
        ({"model": {"name": "tide", "attention": True}}, "attention"),
        ({"service_levels": [0.4]}, "between 0.5 and 1"),
        ({"quantiles": [0.05, 0.5, 0.95]}, "FactSalesForecast has.*go into service_levels"),
        ({"quantiles": [0.05, 0.25, 0.5, 0.75, 0.9, 0.95]}, "go into service_levels"),
        ({"model": {"name": "tide", "config": "no.json"}}, "no.json: there is no such file"),
        ({"model": {"name": "tide", "window_scale": False}}, "a count head needs window_scale"),
        ({"model": {"name": "tide", "window_scale": False, "head": "quantile", "seasonal": True}}, "reads raw counts"),
        ({"model": {"name": "tide", "config": {"optimizer_config": {"lr": 4.616}}}}, "exponent was lost"),
        ({"model": {"name": "tide", "config": {"lags": 0}}}, "sequence_length\n.*greater than or equal to 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_trade_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Params.model_validate({"model": {"name": "tide"}, "source": {"kind": "shop_files"}} | given)


def test_an_old_model_config_is_read_as_keys_or_as_a_file(tmp_path, lines):
    base = {"source": {"kind": "shop_files"}}
    found = Params.model_validate(base | {"model": {"name": "tide", "config": OLD_CONFIG, "seeds": 1}}).model
    assert [line for line in lines if "model config" in line] == [
        "WARNING model config: temporal_width_past has no effect without model.covariates: true"
    ]
    lines.clear()
    odd = OLD_CONFIG | {"quantiles": [0.1, 0.5, 0.9], "model_config": {"random_state": 42}}
    Params.model_validate(base | {"model": {"name": "tide", "config": odd}})
    assert [line.partition(": ")[2].split()[0] for line in lines] == ["seed", "quantiles"]
    assert (found.num_encoder_layers, found.num_decoder_layers, found.temporal_width_past) == (3, 2, 2)
    assert (found.learning_rate, found.weight_decay, found.T_0, found.T_mult) == (7.7e-05, 0.0028, 160, 1), "nothing is rounded"
    assert (found.head, found.schedule, found.seeds, found.hidden_size) == ("quantile", "cosine_restarts", 1, 64)
    (tmp_path / "model_config.json").write_text(json.dumps(OLD_CONFIG))
    again = Params.model_validate(
        base | {"model": {"name": "tide", "config": str(tmp_path / "model_config.json"), "seeds": 1}}
    ).model
    assert again == found
