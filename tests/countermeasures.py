"""What the tests of countermeasures share: recipes, weights by rule, systems of both."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from headwater.downstream.asv_spoof import nii
from headwater.downstream.asv_spoof.systems import System, SystemConfig, build
from torch import Tensor

from headwater.settings import read_recipe, validate
from tests.conftest import ROOT

DATA = Path(__file__).parent / "data" / "nii_spoof"
RECIPES = ROOT / "config" / "downstream" / "asv_spoof"
PUBLISHED: dict[str, dict[str, Any]] = json.loads((DATA / "filled_systems.json").read_text())
KEYS: dict[str, dict[str, list[int]]] = {
    system: entry["keys"]
    for entry in json.loads((DATA / "state_dict_keys.json").read_text())
    for system in entry["systems"]
}
IN_DIM = {"nii_lfcc": 60, "nii_lfb": 60, "nii_power": 257}
SSL = ("LLGF", "LGF", "GF")


def recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, by the authors' name of its system."""
    return read_recipe(RECIPES / f"{name.replace('/', '-')}.yaml")


def settings(name: str, **others: Any) -> SystemConfig:
    return validate(SystemConfig, {**recipe(name)["task"]["system"], **others})


def in_dim(name: str) -> int:
    upstream: str = recipe(name)["upstream"]["name"]
    return IN_DIM[upstream]


def drawn(name: str, shape: list[int]) -> Tensor:
    """One tensor of the rule that the published values were made with (tests/data/nii_spoof/README.md)."""
    generator = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    u = generator.uniform(-1, 1, size=shape)
    last = name.rpartition(".")[2]
    if last == "running_mean":
        u = 0.1 * u
    elif last == "running_var":
        u = 1 + 0.5 * u
    elif last.startswith("bias"):
        u = 0.05 * u
    elif name.startswith(("m_angle.", "m_a_softmax.")):
        u = u / np.sqrt(shape[0])
    elif len(shape) == 1:
        u = 1 + 0.1 * u
    else:
        u = u * np.sqrt(3 / np.prod(shape[1:]))
    return torch.from_numpy(u.astype(np.float32))


def filled(keys: dict[str, list[int]], kept: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A state dict by the rule. kept: tensors that have their initial values."""
    state = {}
    for name, shape in keys.items():
        if kept is not None and name in kept:
            state[name] = kept[name]
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.int64)
        else:
            state[name] = drawn(name, shape)
    return state


def published_state(name: str) -> dict[str, Tensor]:
    """The weights by rule of a system of projects 02 and 03."""
    fresh = System(settings(name), in_dim(name))
    keys = KEYS[name]
    kept = {
        key: torch.zeros(shape) for key, shape in keys.items() if key.startswith(("m_frontend", "input_", "output_"))
    }
    if fresh.config.input == "bank":
        kept["m_transform.0.0.weight"] = fresh.input.weight.detach().clone()  # type: ignore[union-attr, operator]
    return filled(keys, kept)


def published(name: str, folder: Path) -> System:
    """The system of a recipe with the weights by rule, through the reader of published files."""
    path = folder / "weights.pt"
    torch.save(published_state(name), path)
    return build(settings(name, weights=str(path)), in_dim(name)).eval()


def ssl_keys(kind: str) -> dict[str, list[int]]:
    keys: dict[str, list[int]] = json.loads((DATA / "ssl_backends.json").read_text())["systems"][kind]["keys"]
    return keys


def ssl(kind: str, folder: Path) -> System:
    path = folder / "weights.pt"
    torch.save(filled(ssl_keys(kind)), path)
    return build(settings(f"ssl-{kind.lower()}", weights=str(path)), 1024).eval()


def parameters(system: System) -> int:
    return sum(parameter.numel() for parameter in system.parameters())


def read_found(state: dict[str, Tensor], folder: Path) -> nii.Found:
    path = folder / "weights.pt"
    torch.save(state, path)
    return nii.read(path)
