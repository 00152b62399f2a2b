"""Settings as nested mappings: read from YAML and `-o key=value`, merged, and checked against typed sections. Nothing is ever evaluated."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from headwater.errors import UsageError, nearest

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], settings: Mapping[str, Any], where: str = "") -> Model:
    """`model(**settings)`, or `UsageError` with every wrong key by its full dotted name and the nearest known one."""
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        lines = []
        for item in error.errors():
            path = [str(part) for part in item["loc"]]
            key = ".".join([where, *path] if where else path)
            if item["type"] == "extra_forbidden":
                known = _keys_at(model, path[:-1])
                lines.append(f"unknown setting {key!r}.{nearest(path[-1], known)} Known here: {', '.join(known)}.")
            elif item["type"] in ("model_type", "dict_type"):
                lines.append(f"setting {key!r} is a group of settings (key: value), not {item['input']!r}")
            elif item["type"] == "missing":
                lines.append(f"setting {key!r} is missing")
            else:
                text = item["msg"].removeprefix("Value error, ")
                # A check of several settings together has no key of its own.
                lines.append(f"setting {key!r}: {text}; got {item['input']!r}" if key else text)
        raise UsageError("\n".join(lines)) from None


def truth(settings: Mapping[str, Any], key: str, missing: bool = False) -> bool:
    """Yes or no under `key`, `missing` where nothing is there; `UsageError` for what is neither, such as the text "false"."""
    value = settings.get(key)
    if value is None:
        return missing
    if value not in (0, 1) or isinstance(value, (str, float)):
        raise UsageError(f"{key} is {value!r}; it is true or false")
    return bool(value)


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return sorted(model.model_fields)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((found for part in typing.get_args(annotation) if (found := model_in(part))), None)
    return None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which `1e-3` is a number (YAML 1.1 wants a dot) and a key given twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _mapping(loader: Any, node: Any) -> dict[Any, Any]:
    # `<<: *anchor` may stand several times, and is no key.
    keys = [loader.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands here twice", node.start_mark)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. `UsageError` names the file and line of a fault."""
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=_Loader)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable ({error})") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply for settings") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: holds {type(settings).__name__}, not settings (key: value)")
    return settings


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, over those of the recipes that it `extends`: the name of another in its folder, or a list of names, later ones over earlier.

    `UsageError` names the file that is wrong, missing, or extends itself.
    """
    return _extended(Path(path), ())


def _extended(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    settings = read_yaml(path)
    names = settings.pop("extends", [])
    names = names if isinstance(names, list) else [names]
    bases = []
    for name in names:
        # A name and no path: a recipe is handed on with its folder, and reads nothing outside of it.
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*", name):
            raise UsageError(
                f"{path}: extends {name!r}: the name of a recipe in the same folder, without .yaml, is needed"
            )
        base = path.with_name(f"{name}.yaml")
        if base in (path, *below):
            raise UsageError(f"{path}: extends {name}, which extends it")
        if not base.is_file():
            known = sorted(file.stem for file in path.parent.glob("*.yaml"))
            raise UsageError(f"{path}: extends {name}: no {base.name} beside it.{nearest(name, known)}")
        bases.append(_extended(base, (*below, path)))
    return merge(*bases, settings)


def parse_overrides(texts: list[str]) -> dict[str, Any]:
    """`["optimizer.lr=1e-3", "config.runner.total_steps=10,,args.seed=2"]` -> nested settings. Values are YAML scalars or lists, never code."""
    settings: dict[str, Any] = {}
    for item in (part for text in texts for part in text.split(",,")):
        key, equals, value = item.partition("=")
        parts = key.strip().split(".")
        if parts[0] in ("config", "args") and len(parts) > 1:
            parts = parts[1:]
        if not equals or not all(parts):
            raise UsageError(
                f"-o {item!r}: write it as key=value, such as optimizer.lr=1e-3 (several: separated by ,, or by another -o)"
            )
        try:
            parsed = yaml.load(value, Loader=_Loader)
        except (yaml.YAMLError, RecursionError):
            parsed = value
        target = settings
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UsageError(f"-o {item!r}: {part!r} was given a value before")
        target[parts[-1]] = parsed
    return settings


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, later layers over earlier ones. The layers stay as they are."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            held = merged.get(key)
            merged[key] = (
                merge(held, value)
                if isinstance(held, dict) and isinstance(value, Mapping)
                else merge(value)
                if isinstance(value, Mapping)
                else value
            )
    return merged


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
