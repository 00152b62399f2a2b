"""Bundles of torchaudio.pipelines, on a module that is built as torchaudio's are: lengths, batches, names, and what is said without torchaudio."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import headwater
from headwater.checks import noises
from headwater.errors import DataError, UsageError


class Convolution(nn.Module):
    def __init__(self, inside: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.conv = nn.Conv1d(inside, 8, kernel_size, stride)


class Model(nn.Module):
    """The modules of `torchaudio.models.Wav2Vec2Model` that are asked for, under its names."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = nn.Module()
        self.feature_extractor.conv_layers = nn.ModuleList([Convolution(1, 10, 5), Convolution(8, 4, 4)])
        self.encoder = nn.Module()
        self.encoder.feature_projection = nn.Module()
        self.encoder.feature_projection.projection = nn.Linear(8, 6)
        self.encoder.transformer = nn.Module()
        self.encoder.transformer.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)])

    def extract_features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor | None]:
        x = waveforms[:, None]
        for layer in self.feature_extractor.conv_layers:
            x = layer.conv(x).relu()
        x, states = self.encoder.feature_projection.projection(x.transpose(1, 2)), []
        for layer in self.encoder.transformer.layers:
            x = x + layer(x + x.mean(1, keepdim=True)).tanh()
            states.append(x)
        return states, lengths


class Normalising(nn.Module):
    """As torchaudio's: the statistics are those of all waveforms together."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def extract_features(self, waveforms: Tensor) -> tuple[list[Tensor], Tensor | None]:
        return self.model.extract_features(functional.layer_norm(waveforms, waveforms.shape))


class Bundle:
    sample_rate = 16000
    _path = "nowhere.pth"

    def __init__(self, wrapped: bool) -> None:
        self.wrapped = wrapped

    def get_model(self) -> nn.Module:
        torch.manual_seed(0)
        return (Normalising(Model()) if self.wrapped else Model()).eval()


@pytest.fixture(autouse=True)
def pipelines(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    known: dict[str, Any] = {
        "HUBERT_BASE": Bundle(False),
        "HUBERT_LARGE": Bundle(True),
        "SQUIM_SUBJECTIVE": Bundle(False),
    }
    found = types.SimpleNamespace(**known, utils=None)
    monkeypatch.setitem(sys.modules, "torchaudio", types.SimpleNamespace(pipelines=found))
    monkeypatch.setitem(sys.modules, "torchaudio.pipelines", found)
    monkeypatch.setenv("HEADWATER_OFFLINE", "0")
    return found


@pytest.mark.parametrize("name", ["HUBERT_BASE", "HUBERT_LARGE"])
def test_states_are_those_of_each_waveform_alone(name: str, pipelines: types.SimpleNamespace) -> None:
    model = headwater.load(f"torchaudio:{name}")
    wavs = noises(3, 900, 25, 900, 26, 3)
    features, original = model.extract(wavs), getattr(pipelines, name).get_model()
    assert model.layer_names == ("layer 1", "layer 2", "layer 3") and (model.stride, model.offset) == (20, 12.5)
    assert features.lengths.tolist() == [44, 1, 44, 1, 1]
    for row, wav in enumerate(wavs):
        with torch.no_grad():
            states, _ = original.extract_features(functional.pad(wav, (0, max(0, 25 - len(wav))))[None])
        for found, expected in zip(features.hidden_states, states, strict=True):
            torch.testing.assert_close(found[row, : expected.shape[1]], expected[0], rtol=1e-5, atol=1e-6)


def test_names_are_those_of_the_bundles_of_speech_models() -> None:
    with pytest.raises(UsageError, match=r"no model of speech 'HUBERT_BSE'. Did you mean 'HUBERT_BASE'"):
        headwater.load("torchaudio:HUBERT_BSE")
    with pytest.raises(UsageError, match=r"'SQUIM_SUBJECTIVE'.*There are HUBERT_BASE, HUBERT_LARGE$"):
        headwater.load("torchaudio:SQUIM_SUBJECTIVE")


def test_what_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch, pipelines: types.SimpleNamespace) -> None:
    monkeypatch.setenv("HEADWATER_OFFLINE", "1")
    with pytest.raises(DataError, match=r"HEADWATER_OFFLINE is set, and its weights are not at .*nowhere\.pth"):
        headwater.load("torchaudio:HUBERT_BASE")
    monkeypatch.setenv("HEADWATER_OFFLINE", "0")

    def broken() -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(pipelines.HUBERT_BASE, "get_model", broken)
    with pytest.raises(DataError, match=r"torchaudio could not load it \(OSError: no network\)"):
        headwater.load("torchaudio:HUBERT_BASE")
    monkeypatch.setitem(sys.modules, "torchaudio.pipelines", None)
    with pytest.raises(UsageError, match=r"needs torchaudio, which cannot be imported.*-u hubert"):
        headwater.load("torchaudio:HUBERT_BASE")
