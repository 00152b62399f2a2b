"""What all upstreams share whose weights and settings come from one file, or which are made with fresh weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from headwater.config import Section
from headwater.errors import DataError, UsageError, nearest
from headwater.nn.upstream import Upstream
from headwater.registry import Card
from headwater.settings import flatten, merge, validate
from headwater.store.features import enough_memory
from headwater.weights import blaming, fitting_state, is_safetensors, read_parts, shapes_of, some, write_parts

State = dict[str, Tensor]


class Held(NamedTuple):
    """What a file holds: settings, the network's weights, and the names of tensors that only its pretraining needs."""

    settings: Any
    state: State
    unused: tuple[str, ...]


class Choices(Section):
    """What a user may set besides the architecture, which a weight file brings."""

    random_weights: int | None = Field(
        None, ge=0, lt=2**63, description="a seed: the same architecture with fresh weights"
    )


class Pretrained(Upstream):
    """A front-end, and a `network` on its frames.

    A subclass names the type of its settings (all that the architecture and the front-end need) and of what is chosen besides, makes `network_of` settings, and
    reads files of others (`foreign`). Its constructor takes settings, a name, and what is chosen besides `random_weights`.
    """

    settings_type: ClassVar[type[Section]]
    choices_type: ClassVar[type[Choices]] = Choices
    # Where files of others keep heads of pretraining beside the network: how the names of the network's own tensors begin, theirs and ours.
    own: ClassVar[tuple[str, ...]] = ("",)
    settings: Any
    network: nn.Module
    unused: tuple[str, ...] = ()

    @classmethod
    def family(cls, settings: Any) -> str | None:
        """The card of models with such settings, where a class has several kinds."""
        return None

    @classmethod
    @abstractmethod
    def network_of(cls, settings: Any) -> nn.Module:
        """The network, with fresh weights from torch's global generator. `UsageError` for settings that describe none."""

    @classmethod
    @abstractmethod
    def foreign(cls, path: str | Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and all weights of a file that others wrote, under our names. `said`: the user's settings, for what such files do not say.

        Raises:
            DataError: missing, broken, or of something else. Nothing in it was run.
        """

    @classmethod
    def from_card(cls, card: Card, ckpt: str | None, config: Mapping[str, Any]) -> Pretrained:
        """The model of a weight file; or with `random_weights` one like it, or like the card's, with fresh weights.

        Raises:
            UsageError: there are no weights, or a setting is wrong or is not that of the file.
            DataError: the file is missing, broken, of something else, or its weights do not fit its settings.
        """
        known = cls.choices_type.model_fields
        choices = validate(
            cls.choices_type, {k: v for k, v in config.items() if k in known}, "upstream.config"
        ).model_dump()
        said = {key: value for key, value in config.items() if key not in known}
        seed = choices.pop("random_weights")
        held: Held | None = None
        if ckpt is None:
            if seed is None:
                raise UsageError(
                    f"upstream {card.name!r} needs weights: give a file (-k FILE, or ckpt=FILE in Python), "
                    "or upstream.config.random_weights=SEED for the same architecture untrained"
                )
            settings = validate(cls.settings_type, merge(card.config, said), "upstream.config")
        else:
            held = cls.read(ckpt, said)
            settings = held.settings
            _agree(said, settings, ckpt)
        # Loading a model must not move the random numbers of whoever loads it.
        with torch.random.fork_rng(devices=[]), enough_memory("the model is too large; choose a smaller one"):
            torch.default_generator.manual_seed(seed or 0)
            model = cls(settings, card.name, **choices)  # type: ignore[call-arg, arg-type]
        if held is not None and seed is None:
            model.network.load_state_dict(held.state)
            model.unused = held.unused
        return model

    @classmethod
    def read(cls, path: str | Path, said: Mapping[str, Any] | None = None) -> Held:
        """What is in a file, ours or of others, whatever its name is.

        Raises:
            DataError: missing, broken, of something else, or with weights that do not fit its settings.
        """
        if is_safetensors(path):
            facts, parts = read_parts(path, ("network", "objective"))
            config, weights = facts["config"], dict[str, Any](parts["network"])
        else:
            config, weights = cls.foreign(path, said or {})
        with blaming(path):
            settings = validate(cls.settings_type, config)
            with torch.device("meta"):
                shapes = shapes_of(cls.network_of(settings))
        unused = tuple(name for name in weights if not name.startswith(cls.own))
        counted = {
            name: value
            for name, value in weights.items()
            if name not in unused and not name.endswith("num_batches_tracked")
        }
        return Held(settings, fitting_state(counted, shapes, str(path)), unused)

    def write(
        self, path: str | Path, upstream: str, *, objective: Mapping[str, Tensor] | None = None, facts: Any = None
    ) -> None:
        """A weight file of ours: the network, what else its objective needs to go on, and in the header `upstream`, the settings and `facts`."""
        parts = {"network": self.network.state_dict(), "objective": objective or {}}
        write_parts(path, upstream, self.facts()["config"], parts, facts=facts)

    def facts(self) -> dict[str, Any]:
        return {"config": self.settings.model_dump(mode="json")}

    def codes(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """The codes of some utterances, each (T, groups) int64, as `hidden_states` has frames.

        Raises:
            UsageError: the model has no quantizer.
        """
        x, lengths = self.inputs(wavs)
        codes = self.quantized(x, lengths)
        return [row[:length] for row, length in zip(codes, self.out_lengths(lengths).tolist(), strict=True)]

    def quantized(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, in_dim), (B,) -> codes (B, T', groups); what is beyond the lengths means nothing. `UsageError` without a quantizer."""
        raise UsageError(f"upstream {self.name!r} has no codes: it has no quantizer")


def group(file: Mapping[str, Any], name: str, path: str | Path) -> dict[str, Any]:
    """A mapping that a file must hold. `DataError` where it does not."""
    held = file.get(name)
    if not isinstance(held, Mapping):
        raise DataError(
            f"{path} is no checkpoint of this family: it needs {name!r}, and holds {some([str(key) for key in file])}"
        )
    return {str(key): value for key, value in held.items()}


def _agree(said: Mapping[str, Any], settings: Section, path: str) -> None:
    """`UsageError` where the user's architecture or front-end is not that of the file."""
    held = flatten(settings.model_dump())
    for key, value in flatten(said).items():
        if key in held and (
            held[key] == value or (isinstance(value, (list, tuple)) and list(held[key]) == list(value))
        ):
            continue
        has = repr(held[key]) if key in held else "no such setting"
        hint = "" if key in held else nearest(key, list(held))
        raise UsageError(f"upstream.config.{key} is {value!r}, but {path} has {has}: leave it out.{hint}")
