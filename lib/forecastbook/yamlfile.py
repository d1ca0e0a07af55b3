"""YAML that says what it means: a key written twice, a tag, a number with a leading zero are refused with file and line."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import yaml


class ParamsError(ValueError):
    """A params file that cannot be run as it is written."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: dict = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor, whose keys others may override
            continue
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
    if ":" in node.value:  # nor 1:30 as ninety
        raise ParamsError(f"{_place(node)}: {node.value} is no number; write it without a colon or quote it as text")
    return yaml.SafeLoader.construct_yaml_int(loader, node)


def _date(loader: _Loader, node: yaml.ScalarNode):
    try:
        return yaml.SafeLoader.construct_yaml_timestamp(loader, node)
    except ValueError as error:
        raise ParamsError(f"{_place(node)}: {node.value} is no date ({error}); correct it, or quote it as text") from error


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _date)


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
    except RecursionError:
        raise ParamsError(f"{path}: brackets within brackets, hundreds deep, which no params are") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ParamsError(f"{path}: holds a {type(data).__name__}, wanted keys and values")
    return data


def merge(base: dict, over: dict) -> dict:
    """``over`` laid over ``base``, deeply. A mapping whose ``kind`` or ``name`` changes is replaced whole."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        if both and all(value[tag] == old.get(tag, value[tag]) for tag in ("kind", "name") if tag in value):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out
