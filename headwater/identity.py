"""What identifies a run: the settings that change its numbers, and hashes of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from headwater.config import Section, TrainingConfig
from headwater.settings import flatten

Settings = TypeVar("Settings", bound=Section)

# Settings that say where things lie, how often something is printed or how memory is spent, not what comes out. Data is identified by its content.
NEUTRAL = (
    "data.path",
    "data.root",
    "data.labels",
    "data.trials",
    "data.asv_scores",
    "data.train_list",
    "data.dev_list",
    "data.test_list",
    "data.split_file",
    "upstream.ckpt",
    "model.units",
    "task.f0_folder",
    "task.judges",
    "runner.log_step",
    "runner.save_step",
    "store.cache",
    "store.budget_gib",
    "store.memory_gib",
)


def numbers(config: TrainingConfig) -> dict[str, Any]:
    """The flat settings that change numbers, without those of `NEUTRAL`."""
    flat = flatten(config.model_dump(mode="json"))
    return {
        key: value
        for key, value in flat.items()
        if not any(key == neutral or key.startswith(f"{neutral}.") for neutral in NEUTRAL)
    }


def anchored(config: Settings) -> Settings:
    """The same settings, where data lies said in full: a run is opened from other folders than the one it was started in."""
    settings = config.model_dump()
    for name in NEUTRAL:
        section, _, key = name.partition(".")
        place = settings.get(section, {}).get(key) if section in ("data", "upstream", "model", "task") else None
        if place is not None:
            settings[section][key] = [_anchor(one) for one in place] if isinstance(place, list) else _anchor(place)
    kind, _, place = settings.get("upstream", {}).get("name", "").partition(":")
    if kind == "ckpt":
        settings["upstream"]["name"] = f"ckpt:{_anchor(place)}"
    return type(config).model_validate(settings)


def _anchor(place: Any) -> Any:
    """A path in full; an address as it is, and what is none, which the section's own check will name."""
    if not isinstance(place, str):
        return place
    return place if "://" in place else str(Path(place).expanduser().absolute())


def fingerprint(*parts: Any) -> str:
    """sha256 of the parts' canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()
