"""How the files of a project that has published a Conv-TasNet are read: its names of our modules and settings, and sizes off its tensors."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from headwater.errors import DataError, UsageError
from headwater.separation.settings import Architecture

Weights = Mapping[str, Tensor]
Said = Mapping[str, Any]

_YES: Mapping[Any, Any] = {True: True, False: False}
_MASKS: Mapping[Any, Any] = {name: name for name in ("sigmoid", "relu", "softmax")}
_NORMS: Mapping[Any, Any] = {"gLN": "gLN", "gln": "gLN", "cLN": "channelwise", "cln": "channelwise"} | {
    name: {"cgLN": "cumulative", "fgLN": "fgLN"}.get(name, "BN") for name in ("cgLN", "fgLN", "BN", "bn", "bN")
}
# The parts of a block, in the order that `inside` names them in.
BLOCK = ("expand", "activation1", "norm1", "depthwise", "activation2", "norm2", "residual", "skip")


class Project(ABC):
    """One project's files: `mark` is a key that only they have; `settings` its names of ours (`skips`: whether there is a skip path; "" for none)."""

    name: ClassVar[str]
    mark: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]
    needed: ClassVar[tuple[str, ...]] = ("norm", "causal", "mask")
    words: ClassVar[Mapping[str, Mapping[Any, Any]]] = {"norm": _NORMS, "causal": _YES, "mask": _MASKS, "skips": _YES}
    # In one of its blocks, and outside of them, where our modules are under its names. A name ending in `_filters` is a tensor's.
    inside: ClassVar[Mapping[str, str]]
    parts: ClassVar[Mapping[str, str]]
    scale: ClassVar[Mapping[str, str]] = {}  # its names of a norm's `weight` and `bias`

    @abstractmethod
    def block(self, repeat: int | str, place: int | str, index: int | str) -> str:
        """Where a block lies: by repeat and place in it, or by its place in all."""

    @abstractmethod
    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        """What its code or its tensors say of our settings, sizes apart."""

    def within(self, config: Architecture) -> Mapping[str, str]:
        """`inside`, for a model of these settings."""
        return self.inside

    def dead(self, config: Architecture, last: bool) -> tuple[str, ...]:
        """Parts of a block that are in its files, and that its code does not use."""
        return ("residual",) if last and config.Sc else ()

    def settled(self, said: Said, read: Said) -> tuple[Said, list[str]]:
        """What its code makes of settings that its tensors (`read`) are not of, and a note for each."""
        return said, []

    def names(self, ours: Mapping[str, Any], config: Architecture) -> dict[str, str]:
        """Its names of our tensors -> ours."""
        return {self._theirs(name, config): name for name in ours}

    def unused(self, config: Architecture) -> list[str]:
        """Names of the tensors in its files that its code does not use."""
        count, found = config.X * config.R, []
        for index in range(count):
            for part in self.dead(config, index == count - 1):
                leaves = ["weight"] if part == "activation2" else ["weight", "bias"] if config.bias else ["weight"]
                if part == "norm2":
                    leaves = self._norm_leaves(config.norm)
                prefix = self._prefix(index, config)
                found += [f"{prefix}.{self.within(config)[part]}.{leaf}" for leaf in leaves]
        return found

    def fitted(self, value: Tensor, shape: torch.Size) -> Tensor:
        """Its tensor in the shape of ours: without axes of size 1, or with them; a linear layer in the decoder's place turned about."""
        if value.ndim == 2 and len(shape) == 3 and shape[1] == 1 and shape[2] > 1:
            value = value.t()
        sizes = [size for size in value.shape if size != 1]
        return value.reshape(shape) if sizes == [size for size in shape if size != 1] else value

    def _theirs(self, ours: str, config: Architecture) -> str:
        path, _, leaf = ours.rpartition(".")
        part = path.rpartition(".")[2]
        if part.startswith("norm"):
            kind = config.first_norm if part == "norm" else config.norm
            leaf = dict(zip(("weight", "bias"), self._norm_leaves(kind))).get(leaf, leaf)
        if path.startswith("masker.blocks."):
            return f"{self._prefix(int(path.split('.')[2]), config)}.{self.within(config)[part]}.{leaf}"
        if path in self.parts:
            return f"{self.parts[path]}.{leaf}".replace("_filters.weight", "_filters")
        return self.codec(path, config) + f".{leaf}"

    def codec(self, path: str, config: Architecture) -> str:
        """Where a module of the encoder or the decoder lies that is none of `parts`."""
        raise KeyError(path)

    def _norm_leaves(self, kind: str) -> list[str]:
        if kind == "BN":
            return ["weight", "bias", "running_mean", "running_var"]
        return [self.scale.get(leaf, leaf) for leaf in ("weight", "bias")]

    def _prefix(self, index: int, config: Architecture) -> str:
        return self.block(index // config.X, index % config.X, index)

    def said(self, given: Said) -> dict[str, Any]:
        """Settings under our names and in our words. `UsageError` for what it does not know."""
        found: dict[str, Any] = {}
        for key, value in given.items():
            ours = self.settings[key]
            words = self.words.get(ours)
            if not ours:
                continue
            if words is not None and (not isinstance(value, (str, bool, type(None))) or value not in words):
                raise UsageError(f"{key} of {self.name} is {value!r}; known are {', '.join(map(repr, words))}")
            if words is None and (not isinstance(value, int) or isinstance(value, bool)):
                raise UsageError(f"{key} of {self.name} is {value!r}; it is a whole number")
            found[ours] = value if words is None else words[value]
        return found

    def called(self, ours: str) -> str:
        """Its name of a setting of ours."""
        return next((theirs for theirs, key in self.settings.items() if key == ours), ours)

    def sizes(self, weights: Weights, said: Said, where: str) -> dict[str, int]:
        """What the shapes of tensors tell."""

        def shape(name: str) -> torch.Size:
            name = f"{name}.weight".replace("_filters.weight", "_filters")
            if name not in weights or weights[name].ndim != 3 or not weights[name].numel():
                raise DataError(
                    f"{where}: no Conv-TasNet of {self.name}: {name} is missing, or no filters of a convolution"
                )
            return weights[name].shape

        first = self.block(0, 0, 0)
        depthwise = next(
            (
                name
                for name in (f"{first}.{self.inside['depthwise']}{more}" for more in ("", ".0"))
                if f"{name}.weight" in weights
            ),
            f"{first}.{self.inside['depthwise']}",
        )
        filters, _, length = shape(self.parts["encoder.conv"])
        return {
            "N": filters,
            "L": length,
            "B": shape(self.parts["masker.bottleneck"])[0],
            "H": shape(f"{first}.{self.inside['expand']}")[0],
            "P": shape(depthwise)[2],
            "speakers": shape(self.parts["masker.output"])[0] // filters,
            **self._repeats(weights, said, where),
        }

    def _repeats(self, weights: Weights, said: Said, where: str) -> dict[str, int]:
        """Blocks of a repeat, and repeats."""
        mark = re.escape(f"{self.block('REPEAT', 'PLACE', 'INDEX')}.{self.inside['expand']}.weight")
        number = r"(\d{1,4})"
        form = re.compile(mark.replace("REPEAT", number).replace("PLACE", number).replace("INDEX", number))
        found = [tuple(map(int, match.groups())) for match in map(form.fullmatch, weights) if match]
        if len(found[0]) == 2:
            repeats = 1 + max(numbers[0] for numbers in found)
            return {"X": len(found) // repeats, "R": repeats}
        for key, other in (("X", "R"), ("R", "X")):
            one = said.get(key)
            if one is None:
                continue
            if one < 1 or len(found) % one:
                raise UsageError(f"{where}: {self.called(key)} was given as {one}; it has {len(found)} blocks in all")
            return {key: one, other: len(found) // one}
        raise UsageError(
            f"{where}: its {len(found)} blocks may be any number of repeats; give {self.called('X')}, the blocks of a repeat, in the settings"
        )
