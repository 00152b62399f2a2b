"""Bundles of torchaudio.pipelines: an optional package, imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from headwater.audio.frontends import Waveform
from headwater.config import Section
from headwater.download import offline
from headwater.errors import DataError, UsageError, nearest
from headwater.nn.convolution import Window, frame_counts, needed, timing
from headwater.nn.upstream import Upstream
from headwater.registry import Card
from headwater.settings import validate


class Choices(Section):
    source: str | None = Field(None, description="the bundle, as torchaudio.pipelines calls it: HUBERT_BASE")
    random_weights: int | None = Field(None, description="not of bundles: a card of the same architecture has it")


class TorchaudioBundle(Upstream):
    """The output of every layer, as torchaudio's `extract_features` gives them: not the first layer's input, and nothing behind the last layer.

    Published layer numbers count the input as 0; here layer 1 is the first.
    """

    padding_invariant = False

    def __init__(self, name: str, model: Any) -> None:
        inner = getattr(model, "model", model)  # what normalises its input wraps the model
        self.windows = [Window(layer.kernel_size, layer.stride, 0) for layer in inner.feature_extractor.conv_layers]
        layers = len(inner.encoder.transformer.layers)
        dim = inner.encoder.feature_projection.projection.out_features
        stride, offset = timing(self.windows)
        names = [f"layer {number + 1}" for number in range(layers)]
        super().__init__(Waveform(), [dim] * layers, names, stride=stride, offset=offset)
        self.bundle, self.model = name, model

    @classmethod
    def from_card(cls, card: Card, ckpt: str | None, config: Mapping[str, Any]) -> TorchaudioBundle:
        """
        Raises:
            UsageError: torchaudio cannot be imported, or has no such bundle.
            DataError: the weights cannot be had.
        """
        choices = validate(Choices, {**card.config, **config}, "upstream.config")
        if choices.source is None or choices.random_weights is not None or ckpt is not None:
            raise UsageError(
                f"upstream {card.name!r} is torchaudio:BUNDLE, and its architecture is known from its weights alone; "
                "hubert, wav2vec2 and wavlm take files (-k) and random weights"
            )
        bundle = find(choices.source)
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(str(getattr(bundle, "_path", ""))).name
        if offline() and not file.is_file():
            raise DataError(f"{card.name}: HEADWATER_OFFLINE is set, and its weights are not at {file}")
        try:
            model = bundle.get_model()
        except Exception as error:  # of the network, of the disk, of torchaudio
            raise DataError(f"{card.name}: torchaudio could not load it ({type(error).__name__}: {error})") from None
        if int(bundle.sample_rate) != Waveform().sample_rate:
            raise UsageError(f"{card.name}: its waveforms have {bundle.sample_rate:g} Hz; 16000 are known here")
        return cls(choices.source, model)

    def facts(self) -> dict[str, Any]:
        return {"config": {"bundle": self.bundle}}

    def out_lengths(self, lengths: Tensor) -> Tensor:
        return frame_counts(lengths, self.windows)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        wavs = functional.pad(x[..., 0], (0, max(0, needed(self.windows) - x.shape[1])))
        # One at a time: torchaudio normalises a batch as if it were one waveform.
        rows = [self.model.extract_features(wav[None])[0] for wav in wavs]
        return tuple(torch.cat(states) for states in zip(*rows, strict=True)), self.out_lengths(lengths)


def find(name: str) -> Any:
    """A bundle of torchaudio.pipelines. `UsageError` where there is no torchaudio, or no such bundle."""
    try:
        pipelines = importlib.import_module("torchaudio.pipelines")
    except Exception as error:  # a binary of another torch fails in many ways
        raise UsageError(
            f"torchaudio:{name} needs torchaudio, which cannot be imported ({type(error).__name__}: {error}); "
            "the same weights without it: -u hubert, wav2vec2, wavlm and others (headwater ls upstreams)"
        ) from None
    known = [
        key
        for key in dir(pipelines)
        if key.isupper()
        and hasattr(getattr(pipelines, key), "get_model")
        and hasattr(getattr(pipelines, key), "sample_rate")
    ]
    speech = [key for key in known if key.startswith(("WAV2VEC2", "HUBERT", "WAVLM", "VOXPOPULI"))]
    if name not in speech:
        raise UsageError(
            f"torchaudio.pipelines has no model of speech {name!r}.{nearest(name, speech)} There are {', '.join(speech)}"
        )
    return getattr(pipelines, name)
