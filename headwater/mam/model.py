"""Mockingjay, TERA and Audio ALBERT as upstreams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from headwater.config import Section
from headwater.errors import UsageError, nearest
from headwater.mam import s3prl
from headwater.mam.settings import Settings, build_transformer, frontend_of, input_dim_of
from headwater.mam.weights import Weights, read_model
from headwater.nn.lengths import zero_beyond
from headwater.nn.upstream import NoFrontend, Upstream
from headwater.registry import Card
from headwater.settings import flatten, merge, validate
from headwater.store.features import enough_memory
from headwater.weights import is_safetensors


class Choices(Section):
    """What a user may set (`-g FILE`, `upstream.config`). `transformer` and `audio` must say what the weight file says."""

    sequence_length: int | None = Field(None, ge=0, description="as in the weight file when not given; 0: never cut")
    prune_headids: str | int | list[int] | None = Field(None, description="heads that answer zero: 0,1,2,12-15")
    attention_reach: int | None = Field(None, ge=0, description="attention to frames further away is set to zero")
    random_weights: int | None = Field(
        None, ge=0, lt=2**63, description="a seed: the same architecture with fresh weights"
    )
    transformer: dict[str, Any] = Field(default_factory=dict)
    audio: dict[str, Any] = Field(default_factory=dict)


class MaskedAcousticModel(Upstream):
    """A front-end, and a Transformer on its frames; the hidden states are the first layer's input and every layer's output."""

    def __init__(self, settings: Settings, name: str = "masked acoustic model") -> None:
        """Fresh weights, drawn from torch's global generator. `UsageError` for settings that describe no model."""
        chosen, dim = settings.transformer, input_dim_of(settings)
        stacked = chosen.downsample_rate
        frontend = frontend_of(settings.audio) if settings.audio else NoFrontend(name, dim)
        super().__init__(
            frontend,
            [chosen.hidden_size] * (chosen.num_hidden_layers + 1),
            ["input", *(f"layer {number + 1}" for number in range(chosen.num_hidden_layers))],
            stride=frontend.stride * stacked,
            offset=frontend.offset + frontend.stride * (stacked - 1) / 2,
        )
        self.settings, self.stacked = settings, stacked
        self.transformer = build_transformer(settings, dim)
        if chosen.prune_headids:
            kept = torch.ones(chosen.num_hidden_layers * chosen.num_attention_heads)
            kept[chosen.prune_headids] = 0
            self.transformer.kept = kept.view(chosen.num_hidden_layers, -1)

    @classmethod
    def from_card(cls, card: Card, ckpt: str | None, config: Mapping[str, Any]) -> MaskedAcousticModel:
        """The model of a weight file; or with `random_weights` one like it, or like the card's, with fresh weights.

        Raises:
            UsageError: there are no weights, or a setting is wrong or is not that of the file.
            DataError: the file is missing, broken, of something else, or its weights do not fit its settings.
        """
        choices = validate(Choices, config, "upstream.config")
        if ckpt is None and choices.random_weights is None:
            raise UsageError(
                f"upstream {card.name!r} needs weights: give a file (-k FILE, or ckpt=FILE in Python), "
                "or upstream.config.random_weights=SEED for the same architecture untrained"
            )
        weights = None if ckpt is None else read_weights(ckpt)
        if weights is None:
            said = {"transformer": choices.transformer, "audio": choices.audio}
            settings = validate(Settings, merge(card.config, said), "upstream.config")
        else:
            settings = weights.settings
            _agree(choices, settings, str(ckpt))
        settings = _chosen(settings, choices)
        # Loading a model must not move the random numbers of whoever loads it.
        with torch.random.fork_rng(devices=[]), enough_memory("the model is too large; choose a smaller one"):
            torch.default_generator.manual_seed(choices.random_weights or 0)
            model = cls(settings, card.name)
        if weights is not None and choices.random_weights is None:
            model.transformer.load_state_dict(weights.transformer)
        for number in range(model.transformer.depth):
            model.transformer.layer(number).attention.reach = choices.attention_reach
        return model

    def facts(self) -> dict[str, Any]:
        return {"config": self.settings.model_dump(mode="json")}

    def out_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths // self.stacked).clamp(min=1)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        x, lengths = self._stack(x, lengths)
        return self.transformer(x, lengths), lengths

    def attention_maps(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """What each frame attends to: one (rows, heads, longest, longest) a layer. A row is an utterance, or a chunk of one where it was cut."""
        return self.transformer.attention_maps(*self._stack(x, lengths))

    def _stack(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames that make one are joined; the last few of an utterance that fill none are dropped, but a short utterance is filled with zeros."""
        if self.stacked == 1:
            return x, lengths
        size = max(1, x.shape[1] // self.stacked)
        x = torch.nn.functional.pad(zero_beyond(x, lengths), (0, 0, 0, max(0, self.stacked - x.shape[1])))
        return x[:, : size * self.stacked].reshape(len(x), size, -1), self.out_lengths(lengths)


def read_weights(path: str | Path) -> Weights:
    """A weight file of headwater or S3PRL, whatever its name is.

    Raises:
        DataError: missing, broken, of something else, or with weights that do not fit its settings.
    """
    return read_model(path) if is_safetensors(path) else s3prl.read(path)


def _agree(choices: Choices, settings: Settings, path: str) -> None:
    """`UsageError` where the user's architecture or front-end is not that of the file."""
    held = flatten(settings.model_dump())
    for key, value in flatten({"transformer": choices.transformer, "audio": choices.audio}).items():
        resolved = key == "transformer.input_dim" and value in (-1, input_dim_of(settings))
        if value == {} or resolved or (key in held and held[key] == value):
            continue
        has = repr(held[key]) if key in held else "no such setting"
        hint = "" if key in held else nearest(key, list(held))
        raise UsageError(f"upstream.config.{key} is {value!r}, but {path} has {has}: leave it out.{hint}")


def _chosen(settings: Settings, choices: Choices) -> Settings:
    """The settings, with what the user wants otherwise. `UsageError` for heads that are not there."""
    said = settings.model_dump()
    if choices.sequence_length is not None:
        said["task"]["sequence_length"] = choices.sequence_length
    if "prune_headids" in choices.model_fields_set:
        said["transformer"]["prune_headids"] = choices.prune_headids
    return validate(Settings, said, "upstream.config")
