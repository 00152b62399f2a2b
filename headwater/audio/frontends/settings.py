"""Typed settings of the front-ends: a mapping in, a checked object out, errors for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from headwater.errors import UsageError, nearest


class Settings(BaseModel):
    """Base of all settings: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def parse(model: type[S], config: object, prefix: str = "") -> S:
    """`config` as `model`. `prefix` is the dotted key under which `config` lies.

    Raises:
        UsageError: one line for each problem, with the full dotted key and, for an unknown key, the nearest known ones.
    """
    try:
        return model.model_validate(config)
    except ValidationError as error:
        lines = [_describe(model, problem, prefix) for problem in error.errors(include_url=False)]
        raise UsageError("Wrong front-end settings. " + " ".join(lines)) from None


def require(condition: bool, message: str) -> None:
    """For rules that bind several settings: `message` names their keys."""
    if not condition:
        raise UsageError(f"Wrong front-end settings. {message}")


def choice(value: object, known: Mapping[str, Any], key: str) -> str:
    """`value` if it is one of `known`; a UsageError that lists them if not."""
    if isinstance(value, str) and value in known:
        return value
    raise UsageError(
        f"Wrong front-end settings. {key} is {value!r}; known are {', '.join(known)}.{nearest(str(value), list(known))}"
    )


def _describe(model: type[BaseModel], problem: Any, prefix: str) -> str:
    *parents, last = [str(part) for part in problem["loc"]] or [""]
    key = ".".join(part for part in (prefix, *parents, last) if part)
    if problem["type"] == "extra_forbidden":
        known = list(_fields_at(model, parents))
        return f"{key} is unknown; known here are {', '.join(known)}.{nearest(last, known)}"
    if problem["type"] == "missing":
        return f"{key} is missing."
    return f"{key or 'The configuration'} is {problem['input']!r}: {problem['msg'].lower()}."


def _fields_at(model: type[BaseModel], parents: list[str]) -> Mapping[str, Any]:
    for name in parents:
        inner = model.model_fields[name].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        model = inner
    return model.model_fields
