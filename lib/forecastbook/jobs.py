"""A job by its name: its params file read, overlays laid over it in order, and every fault explained in one line.

An unknown key is refused by name with the nearest known one; a key written twice, a tag such as ``!!python/object`` or a number
that YAML reads as text (``1e-3``) is refused with its place.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from .params import Params, Section, network
from .yamlfile import ParamsError, merge, read_yaml


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
        known = _section("model", data).model_fields
        data = merge(data, {"model": {k: v for k, v in tuned.items() if k in known}})
    where = " + ".join(str(p) for p in [path, *overlays])
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(where, data, e) for e in error.errors())) from None


def _explain(where: str, data: dict, error: dict) -> str:
    loc = list(error["loc"])
    if loc[:1] in (["source"], ["model"]):
        del loc[1:2]  # pydantic's tag of the kind of source, of the model's name
    key = ".".join(str(part) for part in loc) or "(whole file)"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _known(loc[:-1], data), n=1, cutoff=0.5)
        return f"{where}: unknown key {key}" + (
            f"; did you mean {near[0]}?" if near else f"; known: {', '.join(_known(loc[:-1], data))}"
        )
    if error["type"] == "union_tag_not_found":
        return f"{where}: {key}: kind is missing; wanted {', '.join(KINDS['source'])}"
    given = error.get("input")
    if given is None and error["type"].endswith("_type"):
        return f"{where}: {key} is empty: give its {'keys' if error['type'].startswith('model') else 'value'} or leave it out"
    hint = " (YAML reads yes, no, on and off as true and false: quote text)" if isinstance(given, bool) else ""
    if isinstance(given, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", given):
        hint = f" (YAML reads {given} as text: write {float(given)})"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, dict) and error["type"] != "union_tag_invalid" else f", got {given!r}"
    return f"{where}: {key}: {message}{shown}{hint}"


KINDS: dict[str, dict[str, type[Section]]] = {  # the sections that come in kinds, by the name of each
    part: {get_args(kind.model_fields[tag].annotation)[0]: kind for kind in get_args(Params.model_fields[part].annotation)}
    for part, tag in (("source", "kind"), ("model", "name"))
}


def _section(part: str, data: dict) -> type[Section]:
    """The class of ``source`` or ``model`` that the data asks for; the first one where it does not say."""
    given, kinds = data.get(part) if isinstance(data.get(part), dict) else {}, KINDS[part]
    named = network(data) if part == "model" else given.get("kind")
    return kinds.get(named if isinstance(named, str) else None, next(iter(kinds.values())))


def _known(loc: list, data: dict) -> list[str]:
    section: Any = Params
    for part in loc:
        field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
        if field is None:
            return []
        section = _section(part, data) if part in KINDS else field.annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def as_of_date(text: str) -> dt.date:
    """An as-of date in the one accepted form, YYYY-MM-DD. Raises ParamsError for anything else: it names a directory."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ParamsError(f"AS_OF {text!r}: wanted YYYY-MM-DD, such as 2026-01-05")
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise ParamsError(f"AS_OF {text!r}: {error}; wanted a real date as YYYY-MM-DD") from error


def path(directory: Path, job: str, overlays: list[str | Path] = ()) -> Path:
    """The params file of a job. Raises ParamsError for one that names no source: it is meant to be laid over another."""
    found = directory / f"{job_name(job)}.yaml"
    if not any("source" in read_yaml(Path(each)) for each in (found, *overlays)):
        raise ParamsError(f"{found}: holds no source, so it is no job but an overlay: give it as PARAMS={found}")
    return found


def job_name(text: str) -> str:
    """A job's name: letters, digits, dash and underscore, so that it can name a file and a directory."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text):
        raise ParamsError(f"JOB {text!r}: wanted the name of a file in params/, such as prices (letters, digits, - and _)")
    return text
