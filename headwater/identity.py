"""What identifies a run: the settings that change its numbers, and hashes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from headwater.config import Neutral, Section, TrainingConfig
from headwater.settings import flatten, model_in

Settings = TypeVar("Settings", bound=Section)


def numbers(config: TrainingConfig, **own: type[Section]) -> dict[str, Any]:
    """The flat settings that change numbers: those that no section marks as `Neutral`. Data is identified by its content.

    own: the sections of a task or an objective, which the config holds as it was given them: `task=`, `model=`.
    """
    flat = flatten(config.model_dump(mode="json"))
    neutral = [name for name, _ in _neutral(config, own)]
    return {
        key: value
        for key, value in flat.items()
        if not any(key == name or key.startswith(f"{name}.") for name in neutral)
    }


def places(config: Section, **own: type[Section]) -> list[str]:
    """The dotted names of the settings that say where something lies; `own` as for `numbers`."""
    return [name for name, mark in _neutral(config, own) if mark.place]


def anchored(config: Settings, **own: type[Section]) -> Settings:
    """The same settings, where data lies said in full: a run is opened from other folders than the one it was started in; `own` as for `numbers`."""
    settings = config.model_dump()
    for name in places(config, **own):
        *outer, key = name.split(".")
        section = settings
        for part in outer:
            section = section.get(part) or {}
        if (place := section.get(key)) is not None:
            section[key] = [_anchor(one) for one in place] if isinstance(place, list) else _anchor(place)
    kind, _, place = settings.get("upstream", {}).get("name", "").partition(":")
    if kind == "ckpt":
        settings["upstream"]["name"] = f"ckpt:{_anchor(place)}"
    return type(config).model_validate(settings)


def _neutral(config: Section, own: Mapping[str, type[Section]]) -> Iterator[tuple[str, Neutral]]:
    """The settings that are marked, by their dotted names."""
    yield from _marked(type(config))
    for name, section in own.items():
        yield from _marked(section, f"{name}.")


def _marked(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Neutral]]:
    for name, field in section.model_fields.items():
        mark = next((one for one in field.metadata if isinstance(one, Neutral)), None)
        if mark is not None:
            yield f"{prefix}{name}", mark
        elif (inner := model_in(field.annotation)) is not None:
            yield from _marked(inner, f"{prefix}{name}.")


def _anchor(place: Any) -> Any:
    """A path in full; an address as it is, and what is none, which the section's own check will name."""
    if not isinstance(place, str):
        return place
    return place if "://" in place else str(Path(place).expanduser().absolute())


def fingerprint(*parts: Any) -> str:
    """sha256 of the parts' canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()
