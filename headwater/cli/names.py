"""What names on a command line stand for: recipes, run folders, and an upstream on the demo corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from headwater.config import DataConfig, ExtractConfig, RunConfig, UpstreamConfig
from headwater.errors import UsageError, nearest
from headwater.paths import expert_root
from headwater.registry import upstreams

Config = TypeVar("Config", RunConfig, ExtractConfig)


def is_file(name: str) -> bool:
    """Whether a YAML file is meant, there or not, rather than the name of a recipe."""
    return Path(name).suffix in (".yaml", ".yml") or Path(name).is_file()


def recipe_path(name: str, owner: str, kind: str = "downstream") -> Path:
    """A YAML file, or the recipe of this name of the task (or another kind of expert)."""
    if is_file(name):
        return Path(name)
    folder = expert_root("config") / kind / owner
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise UsageError(
            f"{name!r} is neither a YAML file nor a recipe of {owner!r}.{nearest(name, known)} Recipes: {', '.join(known) or 'none'}."
        )
    return folder / f"{name}.yaml"


def run_path(text: str) -> Path:
    """A run folder; a file in it or in its checkpoint/ names it, too."""
    path = Path(text)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder
    raise UsageError(f"-e {text}: no run there (a run folder holds config.yaml)")


def on_the_demo(config: Config, say: Callable[[str], None]) -> Config:
    """On the demo corpus a name means the small weights of its card, where it has some; the settings say which from here on."""
    return config.model_copy(update={"upstream": demo_weights(config.upstream, config.data, say)})


def demo_weights(upstream: UpstreamConfig, data: DataConfig, say: Callable[[str], None]) -> UpstreamConfig:
    """The upstream that a name means on this data: on the demo, the small weights of its card."""
    own = (data.path, upstream.ckpt, upstream.config.get("random_weights")) != (None, None, None)
    if own or upstream.name.startswith("ckpt:") or not (small := upstreams[upstream.name].demo):
        return upstream
    say(
        f"upstream   {upstream.name}: the small demo weights ({small}), as no --data was given; with --data it is the official model"
    )
    return upstream.model_copy(update={"name": small})
