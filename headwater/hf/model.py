"""From a card, a file or a name on huggingface.co to an upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from headwater.download import file_sha256
from headwater.errors import UsageError
from headwater.hf.architectures import build, config_of
from headwater.hf.files import filled, read_encoder
from headwater.hf.hub import Place, locate
from headwater.hf.settings import Choices, EncoderSettings
from headwater.hf.spectral import W2vBertUpstream, WhisperUpstream
from headwater.hf.waveform import TransformersUpstream, WaveformEncoder
from headwater.nn.upstream import Upstream
from headwater.registry import Card
from headwater.settings import merge, validate
from headwater.store.features import enough_memory

# For all other models: `WaveformEncoder`.
_SPECTRAL: dict[str, type[WhisperUpstream] | type[W2vBertUpstream]] = {
    "whisper": WhisperUpstream,
    "wav2vec2-bert": W2vBertUpstream,
}


class SpeechEncoder(Upstream):
    """What cards name: `from_card` gives the upstream that fits the architecture."""

    @classmethod
    def from_card(cls, card: Card, ckpt: str | None, config: Mapping[str, Any]) -> TransformersUpstream:
        """The model of a weight file or directory; or with `random_weights` one like it, or like the card's, with fresh weights.

        Raises:
            UsageError: there are no weights, or a setting is wrong.
            DataError: the file is missing, broken, of something else, or its weights do not fit its settings.
        """
        choices = validate(Choices, merge(card.config, config), "upstream.config")
        source, random = ckpt or choices.source, choices.random_weights
        if source is None and random is None:
            raise UsageError(
                f"upstream {card.name!r} needs weights: give a file or a directory of transformers (-k PATH, or ckpt=PATH in Python), "
                "or upstream.config.random_weights=SEED for the same architecture untrained"
            )
        if source is None:
            if not choices.architecture:
                raise UsageError(
                    f"upstream {card.name!r}: its architecture is known from its weights alone; without them, give upstream.config.architecture"
                )
            settings = EncoderSettings(
                architecture=choices.architecture, normalize=choices.normalize or None, sample_rate=choices.sample_rate
            )
            return made(settings, _fresh(settings, random or 0))
        if config.get("architecture"):
            raise UsageError(f"upstream.config.architecture is for random weights without a file; {source} has its own")
        place = locate(source)
        encoder = read_encoder(place.folder, _said(config), choices.architecture.get("model_type"))
        if random is not None:
            return made(encoder.settings, _fresh(encoder.settings, random))
        with enough_memory("the model is too large; choose a smaller one"):
            model = made(encoder.settings, filled(encoder))
        model.unused = encoder.unused
        if place.folder.is_dir():
            model.weight_file = _weight_file(place, source)
        return model


def made(settings: EncoderSettings, model: nn.Module) -> TransformersUpstream:
    """The upstream around a module of transformers."""
    return _SPECTRAL.get(settings.architecture["model_type"], WaveformEncoder)(settings, model)


def _fresh(settings: EncoderSettings, seed: int) -> nn.Module:
    config = config_of(settings.architecture)
    # Loading a model must not move the random numbers of whoever loads it.
    with torch.random.fork_rng(devices=[]), enough_memory("the model is too large; choose a smaller one"):
        torch.default_generator.manual_seed(seed)
        return build(config)


def _said(config: Mapping[str, Any]) -> float | None:
    """What the user, not the card, says of normalisation."""
    value = config.get("normalize")
    return None if value is None else float(value)


def _weight_file(place: Place, source: str) -> dict[str, Any]:
    files = sorted(file for end in ("safetensors", "bin") for file in place.folder.glob(f"*model*.{end}"))
    digests = [file_sha256(file) for file in files]
    return {"name": source, "url": place.url, "sha256": digests[0] if len(digests) == 1 else digests}
