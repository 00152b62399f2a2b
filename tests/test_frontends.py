"""The front-ends: parity with the code they come from, and what they promise of every utterance."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.audio.frontends import build_frontend, normalise_level
from headwater.errors import DataError, UsageError

DATA = Path(__file__).resolve().parent / "data"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "parity"

S3PRL: dict[str, dict[str, Any]] = json.loads((DATA / "s3prl" / "frontends.json").read_text())


def online(feat_type: str, **more: Any) -> dict[str, Any]:
    return {"n_mels": 80, "input": {"feat_type": feat_type, **more}}


CONFIGS: dict[str, dict[str, Any]] = {
    **S3PRL,
    "fbank_hamming": {"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 40, "window_type": "hamming"}}},
    "mel_level_delta": {**online("mel", log=True, delta=2, cmvn=True), "target_level": -25},
    "online_mfcc": online("mfcc", delta=1, cmvn=True),
    "complx": online("complx"),
    "phase": online("phase"),
    "wav": online("wav", cmvn=True),
    "stft_not_centred": {"spectrogram": {"n_fft": 512, "hop_length": 320, "win_length": 400, "center": False}},
    "lfcc": {"nii": {"feat_type": "lfcc"}},
    "lfcc_2021": {"nii": {"feat_type": "lfcc", "n_fft": 1024, "max_freq": 0.5}},
    "lfb": {"nii": {"feat_type": "lfb"}},
    "power": {"nii": {"feat_type": "power"}},
    "waveform": {"waveform": {}},
}
# Single samples are no property of a spectrum: in a quiet bin the phase is that of rounding errors.
SMOOTH = [name for name in CONFIGS if name != "phase"]
FRAMED = [name for name in SMOOTH if name not in ("wav", "waveform")]
every_config = pytest.mark.parametrize("name", CONFIGS)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def frontend(name: str) -> Any:
    return build_frontend(CONFIGS[name])


def features(config: dict[str, Any], wav: np.ndarray) -> np.ndarray:
    x, lengths = build_frontend(config)([torch.from_numpy(wav)])
    assert lengths.tolist() == [x.shape[1]]
    return x[0].numpy()


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize("case", S3PRL)
def test_features_are_those_of_s3prl(case: str) -> None:
    stored = np.load(DATA / "s3prl" / "frontends.npz")
    assert_close(features(S3PRL[case], stored["wav"]), stored[case], 5e-4 if case == "fbank_no_cmvn" else 1e-4)


@pytest.mark.parametrize("case", S3PRL)
def test_each_utterance_of_a_batch_is_what_s3prl_gives_for_it_alone(case: str) -> None:
    folder = SHARED / "s3prl"
    if not folder.is_dir():
        pytest.skip(f"no reference features at {folder}")
    wavs = np.load(folder / "input.npz")
    expected = np.load(folder / case / "expected.npz")
    x, lengths = build_frontend(json.loads((folder / case / "config.json").read_text())["config"])(
        [torch.from_numpy(wavs[key]) for key in wavs]
    )
    for i, length in enumerate(lengths.tolist()):
        assert_close(x[i, :length].numpy(), expected[f"single_{i}"][0], 5e-4 if case == "fbank_no_cmvn" else 1e-4)


def test_level_and_log_mel_are_the_input_of_tera() -> None:
    folder = SHARED / "s3prl"
    if not folder.is_dir():
        pytest.skip(f"no reference features at {folder}")
    config = json.loads((folder / "tera" / "config.json").read_text())["upstream_config"]["audio"]
    del config["target"]
    wavs, expected = np.load(folder / "input.npz"), np.load(folder / "tera" / "expected.npz")
    for i in range(3):
        assert_close(features(config, wavs[f"wav{i}"]), expected[f"input_feature_{i}"], 1e-4)


def assert_nii(stored: Any, signal: str) -> None:
    wav = stored[f"{signal}.wav"]
    if wav.dtype == np.int16:
        wav = wav.astype(np.float32) / 32768
    assert_close(features({"nii": {"feat_type": "lfcc"}}, wav), stored[f"{signal}.lfcc"], 1e-4)
    assert_close(features({"nii": {"feat_type": "lfb"}}, wav), stored[f"{signal}.lfb"], 1e-4)
    no_energy = features({"nii": {"feat_type": "lfcc", "energy": False}}, wav)
    assert_close(no_energy[::10, :20], stored[f"{signal}.lfcc_noenergy"], 1e-4)
    power = features({"nii": {"feat_type": "power"}}, wav)
    np.testing.assert_allclose(
        power[[0, 1, 2, 3, 50, -1]], stored[f"{signal}.spec.frames0_3_50_last"], rtol=1e-4, atol=1e-9
    )
    np.testing.assert_allclose(power.sum(axis=0), stored[f"{signal}.spec.sum_over_time"], rtol=1e-4)


def test_countermeasure_features_are_those_of_nii() -> None:
    assert_nii(np.load(DATA / "nii_spoof" / "frontends.npz"), "synth1")


@pytest.mark.parametrize("signal", ["arctic_a0002", "nsf_slt_b0474"])
def test_countermeasure_features_of_recorded_signals_are_those_of_nii(signal: str) -> None:
    path = SHARED / "nii_spoof" / "frontends.npz"
    if not path.is_file():
        pytest.skip(f"no reference features at {path}")
    stored = np.load(path)
    assert_nii(stored, signal)
    if f"{signal}.lfcc2021" in stored:
        wav = stored[f"{signal}.wav"].astype(np.float32) / 32768
        assert_close(features(CONFIGS["lfcc_2021"], wav), stored[f"{signal}.lfcc2021"], 1e-4)


@every_config
def test_frames_is_the_length_that_comes_out(name: str) -> None:
    made = frontend(name)
    for samples in [*range(1, 12), *range(155, 165), *range(395, 405), *range(505, 563, 3), *range(715, 725), 1999]:
        x, lengths = made([noise(samples)])
        assert x.shape == (1, made.frames(samples), made.out_dim)
        assert lengths.tolist() == [made.frames(samples)]
        assert made.frames(samples) >= 1
        assert x.dtype == torch.float32 and lengths.dtype == torch.int64
        assert x.isfinite().all()


@pytest.mark.parametrize("name", SMOOTH)
@given(sizes=st.lists(st.integers(1, 6000), min_size=2, max_size=5), seed=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_an_utterance_has_the_same_features_alone_and_in_a_batch(name: str, sizes: list[int], seed: int) -> None:
    made = frontend(name)
    wavs = [noise(size, seed + i) for i, size in enumerate(sizes)]
    x, lengths = made(wavs)
    for i, wav in enumerate(wavs):
        alone = made([wav])[0][0]
        assert lengths[i] == len(alone)
        rms = alone.square().mean().sqrt().clamp(min=1e-6)
        assert (x[i, : len(alone)] - alone).abs().max() <= 1e-5 * rms
        assert not x[i, len(alone) :].any()


@pytest.mark.parametrize("name", FRAMED)
def test_waveforms_in_one_row_do_not_see_each_other(name: str) -> None:
    """The way of a GPU, which takes a batch at once."""
    made = frontend(name)
    wavs = [noise(size, size) for size in (5000, 3, 777, 16000, 1)]
    for together, alone in zip(made._together(wavs), made.static(wavs), strict=True):
        assert together.shape == alone.shape
        assert (together - alone).abs().max() <= 1e-5 * alone.square().mean().sqrt()


@pytest.mark.parametrize("name", FRAMED)
def test_a_waveform_longer_than_a_block_has_no_seams(name: str) -> None:
    made = frontend(name)
    wav = noise(2**18)
    long = [made.static([wav])[0], made.static([wav[: 2**17]])[0]]
    inner = made.frames(2**17) - 4
    assert (long[0][:inner] - long[1][:inner]).abs().max() <= 1e-5 * long[0].square().mean().sqrt()


@every_config
@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_and_constants_give_finite_features_and_gradients(name: str, level: float) -> None:
    wav = torch.full((3000,), level, requires_grad=True)
    x, _ = frontend(name)([wav])
    assert x.isfinite().all()
    x.square().sum().backward()
    assert wav.grad is not None and wav.grad.isfinite().all()


@every_config
def test_gradient_reaches_every_waveform_and_no_input_is_changed(name: str) -> None:
    wavs = [noise(4000, 1).requires_grad_(), noise(2500, 2).requires_grad_(), noise(1200, 3).requires_grad_()]
    before = [wav.detach().clone() for wav in wavs]
    x, _ = frontend(name)(wavs)
    (x * torch.linspace(-1, 1, x.shape[-1] + 1)[1:]).square().sum().backward()
    for wav, old in zip(wavs, before, strict=True):
        assert torch.equal(wav.detach(), old)
        assert wav.grad is not None and wav.grad.isfinite().all() and wav.grad.any()


@pytest.mark.parametrize("name", ["fbank", "mfcc", "spectrogram", "mel_level_delta", "lfcc"])
def test_gradient_is_the_slope(name: str) -> None:
    """By central differences, in float64, where a step this small is not lost in rounding."""
    made = frontend(name).double()
    made._ready = lambda wav, index: wav  # keep float64
    wav = noise(900).double().requires_grad_()
    weights = torch.randn(made.frames(900), made.out_dim, generator=torch.Generator().manual_seed(1)).double()
    direction = noise(900, 2).double()

    def loss(samples: torch.Tensor) -> torch.Tensor:
        return (made([samples])[0][0] * weights).sum()

    (slope,) = torch.autograd.grad(loss(wav), wav)
    step = 1e-6
    measured = (loss(wav + step * direction) - loss(wav - step * direction)) / (2 * step)
    assert torch.isclose((slope * direction).sum(), measured, rtol=1e-4)


@every_config
def test_nothing_computed_from_settings_is_saved_with_a_model(name: str) -> None:
    assert frontend(name).state_dict() == {}


def test_mixed_precision_does_not_reach_the_spectrum() -> None:
    made = frontend("fbank")
    wavs = [noise(5000)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, _ = made(wavs)
    assert torch.equal(x, made(wavs)[0])


@pytest.mark.parametrize(
    ("name", "stride", "offset", "out_dim", "frames"),
    [
        ("fbank", 160, 200.0, 240, {1: 1, 400: 1, 559: 1, 560: 2, 16000: 98}),
        ("mel", 160, 0.0, 80, {1: 3, 400: 3, 480: 4, 16000: 101}),
        ("stft_not_centred", 320, 256.0, 257, {1: 1, 831: 1, 832: 2}),
        ("lfcc", 160, 0.0, 60, {1: 1, 159: 1, 160: 2, 16000: 101}),
        ("waveform", 1, 0.0, 1, {1: 1, 16000: 16000}),
        ("wav", 1, 0.0, 1, {7: 7}),
    ],
)
def test_frames_lie_where_they_say(name: str, stride: int, offset: float, out_dim: int, frames: dict[int, int]) -> None:
    made = frontend(name)
    assert (made.sample_rate, made.stride, made.offset, made.out_dim) == (16000, stride, offset, out_dim)
    assert {n: made.frames(n) for n in frames} == frames


@pytest.mark.parametrize("name", ["fbank_no_cmvn", "stft_mag", "stft_not_centred", "lfb"])
def test_a_click_is_loudest_in_the_frame_whose_centre_it_is(name: str) -> None:
    """A window weighs its middle most, so `offset` and `stride` can be read off the features."""
    made = frontend(name)
    for index in (3, 7):
        wav = torch.zeros(6000)
        wav[int(made.offset) + index * made.stride] = 0.5
        x, _ = made([wav])
        assert int(x[0, :, 10:60].sum(dim=1).argmax()) == index


def test_normalised_features_have_mean_zero_and_deviation_one_over_their_own_frames() -> None:
    x, lengths = frontend("fbank")([noise(16000), noise(5000, 1)])
    for row, length in zip(x, lengths.tolist(), strict=True):
        assert row[:length].mean(dim=0).abs().max() < 1e-4
        assert (row[:length].std(dim=0) - 1).abs().max() < 1e-4


def test_the_level_rule_sets_the_rms() -> None:
    wav = noise(16000)
    assert normalise_level(wav, -25.0).square().mean().sqrt() == pytest.approx(10 ** (-25 / 20), rel=1e-4)
    assert not normalise_level(torch.zeros(100), -25.0).any()
    quiet, loud = (frontend("mel_level_delta")([scale * wav])[0] for scale in (0.01, 1.0))
    assert (quiet - loud).abs().max() < 1e-3


def test_empty_or_misshapen_waveforms_are_named() -> None:
    made = frontend("fbank")
    with pytest.raises(DataError, match="Waveform 1 of the batch has no samples"):
        made([noise(500), torch.zeros(0)])
    with pytest.raises(UsageError, match=r"Waveform 0 .*\(2, 500\)"):
        made([torch.zeros(2, 500)])
    with pytest.raises(UsageError, match="int16"):
        made([torch.zeros(500, dtype=torch.int16)])
    with pytest.raises(UsageError, match="ndarray"):
        made([np.zeros(500, np.float32)])
    with pytest.raises(UsageError, match="empty list"):
        made([])


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (
            "fbank",
            {"kaldi.fbank.num_mel_bin": 80},
            r"kaldi\.fbank\.num_mel_bin is unknown.*Did you mean 'num_mel_bins'",
        ),
        ("fbank", {"kaldi.fbank.num_mel_bins": 0}, r"kaldi\.fbank\.num_mel_bins is 0.*greater than 0"),
        ("fbank", {"kaldi.fbank.num_mel_bins": "80"}, r"kaldi\.fbank\.num_mel_bins is '80'.*integer"),
        ("fbank", {"kaldi.fbank.use_log_fbank": 1}, r"kaldi\.fbank\.use_log_fbank is 1.*boolean"),
        ("fbank", {"kaldi.fbank.frame_shift": -10.0}, r"kaldi\.fbank\.frame_shift is -10"),
        ("fbank", {"kaldi.fbank.frame_shift": 0.01}, r"kaldi\.fbank\.frame_shift is 0.01 ms, less than 1 sample"),
        ("fbank", {"kaldi.fbank.frame_length": float("nan")}, r"kaldi\.fbank\.frame_length is nan"),
        ("fbank", {"kaldi.fbank.low_freq": 9000.0}, r"kaldi\.fbank\.low_freq is 9000"),
        ("fbank", {"kaldi.fbank.high_freq": 9000.0}, r"kaldi\.fbank\.high_freq 9000"),
        ("fbank", {"kaldi.fbank.window_type": "kaiser"}, r"kaldi\.fbank\.window_type is 'kaiser'.*'povey'"),
        ("fbank", {"kaldi.feat_type": "fbnk"}, r"kaldi\.feat_type is 'fbnk'.*Did you mean 'fbank'"),
        ("fbank", {"delta.win_length": 4}, r"delta\.win_length is 4; it must be odd"),
        ("fbank", {"delta.order": -1}, r"delta\.order is -1"),
        ("fbank", {"cmvn.use_cmv": True}, r"cmvn\.use_cmv is unknown.*'use_cmvn'"),
        ("fbank", {"dleta": {}}, r"dleta is unknown.*Did you mean 'delta'"),
        ("fbank", {"kaldi": None}, r"kaldi is None"),
        ("fbank", {"sample_rate": 0}, r"sample_rate is 0"),
        ("mfcc", {"kaldi.mfcc.num_ceps": 24}, r"kaldi\.mfcc\.num_ceps is 24, more than kaldi\.mfcc\.num_mel_bins"),
        ("mel", {"win_ms": 50}, r"win_ms is 50.*1 to 400.*n_freq 201"),
        ("mel", {"hop_ms": -1}, r"hop_ms is -1"),
        ("mel", {"n_mel": 80}, r"n_mel is unknown.*Did you mean 'n_mels'"),
        ("mel", {"input.feat_type": "mell"}, r"input\.feat_type is 'mell'.*Did you mean 'mel'"),
        ("mel", {"input.cmnv": True}, r"input\.cmnv is unknown.*'cmvn'"),
        ("mel", {"input.feat_type": "phase"}, r"input\.log is true, but 'phase'.*no logarithm"),
        ("online_mfcc", {"n_mfcc": 129}, r"n_mfcc is 129"),
        (
            "stft_mag",
            {"spectrogram.win_length": 600},
            r"spectrogram\.win_length is 600, longer than spectrogram\.n_fft",
        ),
        ("stft_mag", {"spectrogram.hop_length": 0}, r"spectrogram\.hop_length is 0"),
        ("stft_mag", {"spectrogram.window": "hanning"}, r"spectrogram\.window is 'hanning'"),
        ("lfcc", {"nii.feat_type": "cqcc"}, r"nii\.feat_type is 'cqcc'; known are lfcc, lfb, power"),
        ("lfcc", {"nii.n_filter": 3}, r"nii\.n_filter is unknown.*Did you mean 'n_filters'"),
        ("lfcc", {"nii.frame_length": 1000}, r"nii\.frame_length is 1000, longer than nii\.n_fft"),
        ("lfcc", {"nii.max_freq": 1.5}, r"nii\.max_freq is 1.5"),
        ("lfb", {"nii.energy": True}, r"nii\.energy is unknown"),
        ("waveform", {"waveform.rate": 1}, r"waveform\.rate is unknown"),
    ],
)
def test_settings_that_make_no_sense_are_named_in_full(base: str, change: dict[str, Any], message: str) -> None:
    config = copy.deepcopy(CONFIGS[base])
    for key, value in change.items():
        *parents, last = key.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    with pytest.raises(UsageError, match=message):
        build_frontend(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "it is empty"),
        ({"kalid": {}}, "exactly one of the keys kaldi, .*Did you mean 'kaldi'"),
        ({"kaldi": {}, "nii": {}}, "more than one: kaldi, nii"),
        ([1], "must be a mapping"),
    ],
)
def test_a_configuration_of_no_kind_lists_the_kinds(config: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_frontend(config)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", SMOOTH)
def test_a_gpu_gives_the_same_features(name: str) -> None:
    wavs = [noise(20000), noise(3000, 1)]
    expected, lengths = frontend(name)(wavs)
    x, there = frontend(name).cuda()([wav.cuda() for wav in wavs])
    assert torch.equal(there.cpu(), lengths)
    assert (x.cpu() - expected).square().mean().sqrt() <= 1e-4 * expected.square().mean().sqrt()
