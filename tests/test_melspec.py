"""NII's mel features and raw files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from headwater.audio.frontends.melspec import NiiMel, nii_bank
from headwater.errors import DataError, UsageError
from headwater.vocoder.pairing import paired
from headwater.vocoder.raw import read_f0, read_mel, write_f0, write_mel


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def mel_of(wav: Tensor, **settings: int) -> Tensor:
    return NiiMel(**settings)([wav])[0][0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "every", "settings"),
    [
        ("mfbsp_fft512", 1, {"n_fft": 512}),
        ("mel_fft2048_every4", 4, {}),
        ("mel_fft1024_every4", 4, {"n_fft": 1024}),
        ("mel_ver1_fft1024_every8", 8, {"n_fft": 1024, "version": 1}),
        ("mel_vp_fft1024_hop160_every4", 4, {"n_fft": 1024, "hop": 160}),
    ],
)
def test_published_features_are_reproduced(shared: Path, name: str, every: int, settings: dict[str, int]) -> None:
    case = np.load(shared / "parity" / "nii_nsf" / "mfbsp_arctic_a0002.npz")
    ours = mel_of(torch.from_numpy(case["wav_int16"]).float() / 32768, **settings)[::every].numpy()
    theirs = case[name]
    assert len(ours) - len(theirs) in (0, 1)  # the published file comes from code that drops a frame
    np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 79, 80, 81, 4000])
def test_there_is_a_frame_at_every_multiple_of_the_hop(samples: int) -> None:
    frontend = NiiMel()
    x, lengths = frontend([noise(samples)])
    assert x.shape == (1, samples // 80 + 1, 80) and lengths.tolist() == [samples // 80 + 1]
    assert frontend.stride == 80 and frontend.offset == 0


def test_an_utterance_has_the_same_features_in_a_batch() -> None:
    wavs = [noise(1000), noise(333, seed=1)]
    frontend = NiiMel()
    x, lengths = frontend(wavs)
    for row, length, wav in zip(x, lengths.tolist(), wavs, strict=True):
        assert torch.equal(row[:length], frontend([wav])[0][0])


def test_doubling_the_fft_adds_the_logarithm_of_two() -> None:
    wav = noise(16000)
    difference = mel_of(wav, n_fft=2048) - mel_of(wav, n_fft=1024)
    assert difference[:, 1:].mean() == pytest.approx(math.log(2), abs=0.02)


def test_band_zero_is_the_bin_of_dc_alone_and_the_other_bands_have_area_one() -> None:
    bank = nii_bank(80, 2048, 16000)
    assert bank[0, 0] == 2048 / 16000 and not bank[1:, 0].any()
    assert not bank[0, 1:].any()
    area = bank[:, 1:].sum(0) * 16000 / 2048
    np.testing.assert_allclose(area.numpy(), 1.0, atol=0.03)


def test_silence_is_finite_and_gradients_reach_the_waveform() -> None:
    assert torch.isfinite(mel_of(torch.zeros(400))[:, 1:]).all()
    wav = noise(400).requires_grad_()
    mel_of(wav).sum().backward()
    assert wav.grad is not None and torch.isfinite(wav.grad).all() and wav.grad.any()


@pytest.mark.parametrize("settings", [{"n_fft": 256}, {"n_fft": 2049}, {"hop": 0}, {"version": 3}])
def test_senseless_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        NiiMel(**settings)  # type: ignore[arg-type]


def test_raw_files_are_little_endian_floats_row_by_row(tmp_path: Path) -> None:
    mel, f0 = torch.arange(160.0).reshape(2, 80), torch.tensor([0.0, 120.5])
    write_mel(tmp_path / "a.mfbsp", mel)
    write_f0(tmp_path / "a.f0", f0)
    assert (tmp_path / "a.mfbsp").read_bytes() == mel.numpy().astype("<f4").tobytes()
    assert torch.equal(read_mel(tmp_path / "a.mfbsp"), mel) and torch.equal(read_f0(tmp_path / "a.f0"), f0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"\0" * 319, "319 bytes"),
        (np.full(80, np.nan, "<f4").tobytes(), "NaN"),
    ],
)
def test_a_raw_file_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.mfbsp").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.mfbsp.*{said}"):
        read_mel(tmp_path / "a.mfbsp")


def test_a_missing_raw_file_and_a_negative_f0_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.f0"):
        read_f0(tmp_path / "b.f0")
    (tmp_path / "a.f0").write_bytes(np.array([100.0, -1.0], "<f4").tobytes())
    with pytest.raises(DataError, match="frame 1 has an F0 below 0"):
        read_f0(tmp_path / "a.f0")


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NaN"):
        write_f0(tmp_path / "a.f0", torch.tensor([1.0, math.nan]))
    with pytest.raises(UsageError):
        write_mel(tmp_path / "a.mfbsp", torch.zeros(80))
    assert not list(tmp_path.iterdir())


def test_frames_and_samples_are_cut_to_the_whole_frames_they_share() -> None:
    mel, f0, wav = paired(torch.zeros(11, 80), torch.zeros(10), "a", wav=torch.zeros(875), hop=80, sample_rate=16000)
    assert wav is not None
    assert (len(mel), len(f0), len(wav)) == (10, 10, 800)


@pytest.mark.parametrize(
    ("frames", "f0", "samples", "said"),
    [
        (100, 50, 8000, "F0 has 50"),  # every 10 ms
        (100, 100, 16000, "16000 samples are 200 frames of 80"),  # another rate
        (0, 1, 80, "no whole frame"),
    ],
)
def test_another_stride_or_rate_is_refused_with_the_counts(frames: int, f0: int, samples: int, said: str) -> None:
    with pytest.raises(DataError, match=f"clip: .*{said}"):
        paired(torch.zeros(frames, 80), torch.zeros(f0), "clip", wav=torch.zeros(samples), hop=80, sample_rate=16000)


@pytest.mark.parametrize("value", [-1.0, math.nan, 9000.0])
def test_an_f0_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="F0 must be in Hz"):
        paired(torch.zeros(1, 80), torch.tensor([value]), "clip", hop=80, sample_rate=16000)
