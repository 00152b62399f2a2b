"""What makes a run folder enough for itself: the trained probe, what it needs of the task, and the source of plugins."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from headwater.errors import DataError, HeadwaterError
from headwater.registry import Card, add_plugin
from headwater.results.files import write_bytes, write_json
from headwater.results.run import RunFolder
from headwater.weights import to_bytes


def save_model(
    folder: Path,
    probe: nn.Module,
    upstream: Any,
    task: dict[str, Any],
    weights_sha256: str | None,
    plugins: list[str],
    *,
    bundle: bool,
) -> None:
    """`model.safetensors` (featurizer, head, fine-tuned upstream) and `model.json`; with `bundle` the frozen upstream's weights, too."""
    write_bytes(folder / "model.safetensors", to_bytes(probe.state_dict()))
    if bundle and weights_sha256 is not None:
        write_bytes(folder / "upstream.safetensors", to_bytes(upstream.state_dict(), upstream.facts()))
    write_json(
        folder / "model.json",
        {
            "schema": 1,
            "upstream": {"name": upstream.name, "weights_sha256": weights_sha256},
            "task": task,
            "plugins": plugins,
        },
    )


def read_model(place: RunFolder) -> dict[str, Any]:
    """`model.json`, its schema checked."""
    model = place.model()
    file = place.path / "model.json"
    if model.get("schema") != 1:
        raise DataError(f"{file}: schema {model.get('schema')!r} is not one this version reads (1)")
    for key, kind in (("upstream", dict), ("task", dict), ("plugins", list)):
        if not isinstance(model.get(key), kind):
            raise DataError(f"{file}: the key {key!r} is missing or broken; train again with --fresh")
    return model


def source_sha256(source: Path) -> str:
    """sha256 of a plugin's file, or of the Python and YAML files of its folder and the packages in it."""
    digest = hashlib.sha256()
    for file in [source] if source.is_file() else _sources(source):
        digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


def _sources(folder: Path) -> list[Path]:
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".py", ".yaml", ".yml")]
    packages = [child for child in sorted(folder.iterdir()) if (child / "__init__.py").is_file()]
    return [*files, *(file for package in packages for file in _sources(package))]


def copy_plugins(folder: Path, cards: list[Card]) -> list[str]:
    """Copy the source of the cards' plugins below `folder`/plugin. Returns their paths relative to `folder`."""
    copied = []
    for number, source in enumerate(sorted({card.plugin for card in cards if card.plugin is not None})):
        target = folder / "plugin" / str(number) / source.name
        try:
            shutil.rmtree(target.parent, ignore_errors=True)
            target.parent.mkdir(parents=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=_ignored(folder))
            else:
                shutil.copy2(source, target)
        except OSError as error:
            raise HeadwaterError(f"{target}: the plugin's source cannot be copied ({error})") from None
        copied.append(target.relative_to(folder).as_posix())
    return copied


def _ignored(folder: Path) -> Callable[[str, list[str]], set[str]]:
    """What of a plugin is not copied: caches, hidden files, and the way to `folder` itself, which may lie inside the plugin."""
    inside = {folder.resolve(), *folder.resolve().parents}

    def ignore(parent: str, names: list[str]) -> set[str]:
        return {
            name
            for name in names
            if name == "__pycache__" or name.startswith(".") or (Path(parent) / name).resolve() in inside
        }

    return ignore


def register_plugins(folder: Path, plugins: list[str]) -> None:
    """Register the plugins a run was made with, in the place of others of the same names: the run is what its own source says."""
    own = (folder / "plugin").resolve()
    for plugin in plugins:
        if not isinstance(plugin, str) or not (folder / plugin).resolve().is_relative_to(own):
            raise DataError(f"{folder / 'model.json'}: the plugin {plugin!r} lies outside {own}; it is not run")
        add_plugin(folder / plugin, replace=True)
