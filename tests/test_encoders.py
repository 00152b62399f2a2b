"""Encoders of transformers: the same hidden states as the original code, from every kind of file, alone and in a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import Tensor

import headwater
from headwater.checks import noises
from headwater.hf.architectures import build, config_of
from headwater.hf.model import made
from headwater.hf.settings import EncoderSettings
from headwater.hf.waveform import TransformersUpstream, WaveformEncoder

DATA = ROOT / "tests/data/encoders"
TOLERANCE = 1e-4
BUNDLED = {
    "wav2vec2_base": "wav2vec2",
    "wav2vec2_large_ll60k": "wav2vec2",
    "hubert_base": "hubert",
    "wavlm_base": "wavlm",
    "unispeech_sat_base": "unispeech-sat",
    "data2vec": "data2vec-audio",
}
# Folder of parity cases -> the upstream that reads its files, and these.
CASES = {
    "wav2vec2_base": ("wav2vec2_local", ["model.pt", "fairseq_args.pt"]),
    "wav2vec2_large_ll60k": ("wav2vec2_local", ["model.pt", "fairseq_cfg_omegaconf.pt"]),
    "hubert_base": ("hubert_local", ["model.pt", "fairseq_cfg_omegaconf.pt", "fairseq_cfg_dict.pt"]),
    "hubert_large_ll60k": ("hubert_local", ["model.pt"]),
    "wavlm_base": ("wavlm_local", ["model.pt"]),
    "wavlm_large": ("wavlm_local", ["model.pt"]),
    "unispeech_sat_base": ("unispeech_sat_local", ["model.pt"]),
    "unispeech_sat_large": ("unispeech_sat_local", ["model.pt"]),
    "data2vec": ("data2vec_local", ["model.pt", "fairseq_cfg_dict.pt"]),
    "hf_wav2vec2": ("hf", ["."]),
    "hf_hubert": ("hf", ["."]),
    "hf_wavlm": ("hf", ["."]),
}


@torch.no_grad()
def states(model: Any, *wavs: Tensor) -> list[np.ndarray]:
    """(states, frames, dim) of each waveform, all in one batch."""
    features = model.extract(wavs)
    stacked = torch.stack(features.hidden_states).numpy()
    return [stacked[:, row, :length] for row, length in enumerate(features.lengths.tolist())]


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE


@pytest.mark.parametrize("case", BUNDLED)
def test_hidden_states_are_those_of_s3prl(case: str) -> None:
    model = headwater.load("hf", ckpt=str(DATA / f"{case}.pt"))
    assert isinstance(model, WaveformEncoder) and model.settings.architecture["model_type"] == BUNDLED[case]
    arrays = np.load(DATA / "expected.npz")
    wav = torch.from_numpy(arrays[f"{case}.wav_2"] / np.float32(32768))
    expected = np.stack([arrays[f"{case}.state_{number}"] for number in range(4)])
    # Among longer ones that are louder: a norm over time, or a convolution over padding, would show.
    alone, _, among = (*states(model, wav), *states(model, *noises(0, 16000), wav))
    assert_close(alone, expected)
    assert_close(among, expected)


@pytest.mark.parametrize(("case", "file"), [(case, file) for case, (_, files) in CASES.items() for file in files])
def test_every_utterance_of_a_batch_is_what_the_original_gives_for_it_alone(case: str, file: str, shared: Path) -> None:
    folder = shared / "parity/upstreams" / case
    arrays, expected = np.load(folder / "wavs.npz"), np.load(folder / "expected.npz")
    wavs = [torch.from_numpy(arrays[f"wav_{i}"]) for i in range(3)]
    model = headwater.load(CASES[case][0], ckpt=str(folder / file))
    for i, together in enumerate(states(model, *wavs)):
        (alone,) = states(model, wavs[i])
        target = np.stack([expected[f"single_{i}_hidden_{number}"] for number in range(model.num_layers)])
        assert model.frames(len(wavs[i])) == target.shape[1]
        assert_close(alone, target)
        assert_close(together, target)


def test_without_normalisation_or_final_norm_it_would_not_be_the_same() -> None:
    """What the parity of the pre-norm model rests on."""
    arrays = np.load(DATA / "expected.npz")
    case = "wav2vec2_large_ll60k"
    model = headwater.load("wav2vec2_local", ckpt=str(DATA / f"{case}.pt"))
    assert isinstance(model, WaveformEncoder)
    wav = torch.from_numpy(arrays[f"{case}.wav_2"] / np.float32(32768))
    model.frontend.normalize = None  # type: ignore[attr-defined]
    assert np.abs(states(model, wav)[0][0] - arrays[f"{case}.state_0"]).max() > 0.1
    model.frontend.normalize = 1e-5  # type: ignore[attr-defined]
    model.pre_norm = False
    assert np.abs(states(model, wav)[0][3] - arrays[f"{case}.state_3"]).max() > 0.1


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TINY_CONVOLUTIONS = {"conv_dim": [16] * 7, "feat_extract_norm": "layer"}
OTHERS: dict[str, dict[str, Any]] = {
    "conformer, relative positions": {"model_type": "wav2vec2-conformer", **TINY, **TINY_CONVOLUTIONS},
    "conformer, rotary positions": {
        "model_type": "wav2vec2-conformer",
        "position_embeddings_type": "rotary",
        **TINY,
        **TINY_CONVOLUTIONS,
    },
    "w2v-BERT, relative keys": {"model_type": "wav2vec2-bert", **TINY},
    "w2v-BERT, relative positions": {"model_type": "wav2vec2-bert", "position_embeddings_type": "relative", **TINY},
    "w2v-BERT, rotary positions": {"model_type": "wav2vec2-bert", "position_embeddings_type": "rotary", **TINY},
    "UniSpeech": {"model_type": "unispeech", **TINY, "conv_dim": [16] * 7},
    "HuBERT with a batch norm": {"model_type": "hubert", "conv_pos_batch_norm": True, **TINY, "conv_dim": [16] * 7},
    "HuBERT without a norm before the projection": {
        "model_type": "hubert",
        "feat_proj_layer_norm": False,
        **TINY,
        "conv_dim": [16] * 7,
    },
}


def drawn(architecture: dict[str, Any], **settings: Any) -> TransformersUpstream:
    """A model whose every tensor is random: none of its norms, biases and statistics is hidden by ones and zeros."""
    model = build(config_of(architecture))
    generator = torch.Generator().manual_seed(5)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "inv_freq" not in name:
            spread = 0.2 * torch.randn(value.shape, generator=generator)
            value.copy_(spread.abs() + 0.5 if name.endswith(("running_var", "norm.weight", "original0")) else spread)
    return made(EncoderSettings(architecture=architecture, **settings), model).eval()  # type: ignore[return-value]


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_an_utterance_alone_is_what_transformers_gives(name: str) -> None:
    model, (wav,) = drawn(OTHERS[name]), noises(8, 9000)
    x, _ = model.inputs([wav])
    theirs = model.model(x if model.in_dim > 1 else x[..., 0], output_hidden_states=True)
    expected = [*theirs.hidden_states[:-1], theirs.last_hidden_state]
    found = model.extract([wav]).hidden_states
    assert len(found) == len(expected)
    for ours, target in zip(found, expected):
        torch.testing.assert_close(ours, target, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_a_batch_is_what_each_utterance_is_alone(name: str) -> None:
    model = drawn(OTHERS[name])
    wavs = noises(9, 9000, 4100, 12345)
    for together, wav in zip(states(model, *wavs), wavs):
        assert np.abs(together - states(model, wav)[0]).max() <= 2e-5 * np.sqrt(np.square(together).mean())


@torch.no_grad()
def test_w2v_berts_spectra_are_those_of_transformers() -> None:
    from transformers import SeamlessM4TFeatureExtractor

    wavs = noises(10, 9000, 16000, 5441)
    x, lengths = drawn(OTHERS["w2v-BERT, relative keys"]).inputs(wavs)
    for row, length, wav in zip(x, lengths.tolist(), wavs):
        expected = SeamlessM4TFeatureExtractor()(
            wav.numpy(), sampling_rate=16000, return_tensors="pt", pad_to_multiple_of=1
        )
        torch.testing.assert_close(row[:length], expected["input_features"][0], atol=2e-3, rtol=0)


WHISPER = {
    "model_type": "whisper",
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
}


@torch.no_grad()
def test_whisper_is_what_transformers_gives_for_each_30_seconds() -> None:
    from transformers import WhisperFeatureExtractor

    model, (wav,) = drawn(WHISPER), noises(11, 31 * 16000)
    features = model.extract([wav, wav[:16000]])
    assert features.lengths.tolist() == [1550, 50] and (model.stride, model.offset) == (320, 0.0)
    for row, (first, last), piece in (
        (0, (0, 1500), wav[:480000]),
        (0, (1500, 1550), wav[480000:]),
        (1, (0, 50), wav[:16000]),
    ):
        spectra = WhisperFeatureExtractor()(piece.numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
        theirs = model.model(spectra, output_hidden_states=True)
        for ours, target in zip(features.hidden_states, [*theirs.hidden_states[:-1], theirs.last_hidden_state]):
            torch.testing.assert_close(ours[row, first:last], target[0, : last - first], atol=1e-4, rtol=0)


def test_frames_are_counted_by_the_convolutions() -> None:
    model = drawn({"model_type": "hubert", **TINY, "conv_dim": [16] * 7})
    assert (model.stride, model.offset) == (320, 200.0)
    assert [model.frames(samples) for samples in (1, 400, 719, 720, 16000, 16080)] == [1, 1, 1, 2, 49, 50]


@torch.no_grad()
def test_short_input_is_filled_with_zeros_after_normalisation() -> None:
    model = drawn({"model_type": "wav2vec2", **TINY, "conv_dim": [16] * 7}, normalize=1e-5)
    (wav,) = noises(12, 300)
    normed = torch.nn.functional.layer_norm(wav, wav.shape)
    model_as_is = made(EncoderSettings(architecture=model.settings.architecture), model.model).eval()
    expected = model_as_is.extract([torch.nn.functional.pad(normed, (0, 100))])
    assert all(torch.equal(a, b) for a, b in zip(model.extract([wav]).hidden_states, expected.hidden_states))


def test_no_mask_is_made_for_an_utterance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which attention then computes fastest."""
    masks: list[Tensor | None] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def seen(*args: Any, **kwargs: Any) -> Tensor:
        masks.append(kwargs.get("attn_mask"))
        return attention(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    model = drawn({"model_type": "wav2vec2", **TINY, "conv_dim": [16] * 7})
    model.extract(noises(13, 4000))
    model.extract([*noises(13, 4000), *noises(14, 4000)])
    assert masks == [None] * 4
    model.extract(noises(13, 4000, 3000))
    assert len(masks) == 6 and masks[-1] is not None


@pytest.mark.parametrize("fused", [False, True])
def test_states_are_of_the_weights_that_an_optimizer_left(fused: bool) -> None:
    """A fused optimizer changes weights without telling anybody."""
    model, wavs = drawn({"model_type": "wav2vec2", **TINY, "conv_dim": [16] * 7}), noises(15, 4000)
    weights = list(model.model.encoder.pos_conv_embed.conv.parametrizations.weight.parameters())
    with torch.no_grad():
        first = model.extract(wavs).last_hidden_state
    optimizer = torch.optim.AdamW(weights, lr=0.05, fused=fused)
    model.extract(wavs).last_hidden_state.square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        second = model.extract(wavs).last_hidden_state
    assert not torch.allclose(first, second, atol=1e-2)
    torch.testing.assert_close(model.extract(wavs).last_hidden_state, second)


def test_statistics_of_batch_norms_stay_while_fine_tuning() -> None:
    model = drawn(OTHERS["conformer, relative positions"]).train()
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    model.extract(noises(16, 6000, 4000))
    after = dict(model.named_buffers())
    assert before and all(torch.equal(value, after[name]) for name, value in before.items())


def test_bf16_is_near() -> None:
    for name in ("wavlm_base", "hubert_base"):
        model = headwater.load("hf", ckpt=str(DATA / f"{name}.pt"))
        wavs = noises(17, 8000, 5000)
        exact = states(model, *wavs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = model.extract(wavs)
        for row, target in enumerate(exact):
            found = (
                torch.stack([state[row, : target.shape[1]].float() for state in features.hidden_states])
                .detach()
                .numpy()
            )
            assert np.abs(found - target).mean() < 0.05 * np.abs(target).mean()


def test_the_readme_of_the_cases_names_all_of_them() -> None:
    text = (DATA / "README.md").read_text(encoding="utf-8")
    assert all(f"`{case}.pt`" in text for case in BUNDLED)
    assert json.dumps(sorted(BUNDLED)) == json.dumps(sorted(file.stem for file in DATA.glob("*.pt")))
