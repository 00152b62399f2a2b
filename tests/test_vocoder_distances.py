"""Copy-synthesis, F0 and the distances of copies from their originals."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from headwater.errors import DataError, UsageError
from headwater.separation.quality import pesq, stoi
from headwater.vocoder.alignment import warping_path
from headwater.vocoder.cepstra import mel_cepstrum, warping
from headwater.vocoder.copy_synthesis import griffin_lim, mel_bound, world
from headwater.vocoder.distances import (
    log_spectral_distance,
    mel_cepstral_distortion,
    mel_l1,
    stft_distance,
    world_distances,
)
from headwater.vocoder.f0 import TRACKERS, Tracker, Tracking, extract_f0
from headwater.vocoder.mel import LogMel
from headwater.vocoder.pitch import f0_errors
from headwater.vocoder.world import analyse, pyworld, samples_of


@pytest.fixture()
def pyworld_here() -> None:
    """Skips where pyworld is not."""
    try:
        pyworld()
    except UsageError as error:
        pytest.skip(str(error))


def buzz(samples: int = 8000, seed: int = 0) -> Tensor:
    """A voiced sound whose pitch falls, with some noise."""
    time = torch.arange(samples, dtype=torch.float64) / 16000
    pitch = 180 - 40 * time
    cycles = (pitch / 16000).cumsum(0)
    tones = sum(torch.sin(2 * math.pi * order * cycles) / order for order in range(1, 12))
    assert isinstance(tones, Tensor)
    grain = torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.1 * tones + 0.002 * grain).float()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "world": lambda wav: world(wav, 16000),
    "griffin_lim": lambda wav: griffin_lim(wav, 16000, generator=generator(), iterations=4),
    "mel": lambda wav: mel_bound(wav, LogMel(16000), generator=generator(), iterations=4),
}


@pytest.mark.usefixtures("pyworld_here")
@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("samples", [1, 79, 1001])
def test_a_copy_has_the_samples_of_its_original_and_the_same_bits_each_time(name: str, samples: int) -> None:
    wav = buzz(samples)
    copy = COPIES[name](wav)
    assert copy.shape == wav.shape and copy.dtype == torch.float32 and torch.isfinite(copy).all()
    assert torch.equal(copy, COPIES[name](wav))


@pytest.mark.usefixtures("pyworld_here")
@pytest.mark.parametrize("name", COPIES)
def test_copies_sound_like_the_original_and_silence_like_silence(name: str) -> None:
    wav = buzz()
    assert mel_l1(wav, COPIES[name](wav), 16000) < 0.7
    assert COPIES[name](torch.zeros(2000)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["griffin_lim", "mel"])
@pytest.mark.parametrize(
    ("wav", "error"),
    [(torch.zeros(0), DataError), (torch.tensor([math.nan]), DataError), (torch.zeros(2, 2), UsageError)],
)
def test_what_is_no_waveform_is_refused(name: str, wav: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match="waveform"):
        COPIES[name](wav)


def test_more_iterations_of_griffin_lim_come_nearer() -> None:
    wav = buzz()
    first, second, third = (
        stft_distance(wav, griffin_lim(wav, 16000, iterations=count, generator=generator())) for count in (0, 8, 32)
    )
    assert first > second > third


def test_a_hop_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(UsageError, match="gaps"):
        griffin_lim(buzz(), 16000, n_fft=256, hop=200, generator=generator())


def test_without_pyworld_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(UsageError, match="pip install"):
        extract_f0(buzz(), 16000)


@pytest.mark.usefixtures("pyworld_here")
@pytest.mark.parametrize("tracker", TRACKERS)
def test_trackers_find_the_pitch_and_no_pitch_in_noise(tracker: Tracker) -> None:
    f0 = extract_f0(buzz(), 16000, Tracking(tracker))
    assert f0.dtype == torch.float32 and len(f0) == 8000 // 80 + 1
    time = torch.arange(len(f0)) * 0.005
    voiced = f0 > 0
    assert voiced[10:-10].all()
    torch.testing.assert_close(f0[10:-10], (180 - 40 * time)[10:-10], rtol=0.02, atol=0)
    assert not extract_f0(torch.zeros(800), 16000, Tracking(tracker)).any()


@pytest.mark.usefixtures("pyworld_here")
@pytest.mark.parametrize(
    "settings",
    [{"tracker": "yin"}, {"floor_hz": 900.0}, {"floor_hz": 0.0}, {"ceiling_hz": 9000.0}, {"period_ms": 0.0}],
)
def test_senseless_settings_of_f0_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        extract_f0(buzz(), 16000, Tracking(**settings))  # type: ignore[arg-type]


@pytest.mark.usefixtures("pyworld_here")
def test_published_values_of_world_are_reproduced(shared: Path) -> None:
    folder = shared / "parity" / "nii_nsf"
    wav = torch.from_numpy(np.load(folder / "mfbsp_arctic_a0002.npz")["wav_int16"]).float() / 32768
    case = np.load(folder / "world_arctic_a0002.npz")
    trackers: dict[Tracker, str] = {"dio": "f0_dio", "dio+stonemask": "f0_dio_stonemask", "harvest": "f0_harvest"}
    for tracker, name in trackers.items():
        np.testing.assert_allclose(extract_f0(wav, 16000, Tracking(tracker)).numpy(), case[name], atol=1e-3)
    analysis = analyse(samples_of(wav), case["f0_dio_stonemask"].astype(np.float64), 16000)
    np.testing.assert_allclose(np.log(analysis.envelope[::25]), case["log_sp_every25"], atol=1e-3)
    np.testing.assert_allclose(analysis.aperiodicity[::25], case["ap_every25"], atol=1e-3)


@pytest.mark.usefixtures("pyworld_here")
def test_published_distances_are_reproduced(shared: Path) -> None:
    folder = shared / "parity" / "spoof_metrics"
    clips, expected = np.load(folder / "quality_clips.npz"), json.loads((folder / "quality_expected.json").read_text())
    for name in (f"SP_T_9749876/{kind}" for kind in ("identical", "noise5dB", "world", "delay80")):
        said = expected[name]
        original, copy = (torch.from_numpy(clips[key] / 32767) for key in (f"{name.partition('/')[0]}/identical", name))
        found = world_distances(original, copy, 16000)
        assert found.mcd == pytest.approx(said["mcd_plain"], abs=1e-3), name
        assert found.mcd_dtw == pytest.approx(said["mcd_dtw"], abs=1e-3), name
        assert found.f0.rmse_cents == pytest.approx(said["f0_rmse_cents"], abs=1e-3 * 1200 / math.log(2)), name
        assert found.f0.vuv_error == pytest.approx(said["vuv_error"], abs=0.005), name
        assert mel_l1(original, copy, 16000) == pytest.approx(said["mel_l1_natural_log"], abs=1e-3), name


@pytest.mark.parametrize("package", ["pesq", "pystoi"])
def test_published_perceptual_scores_are_reproduced(shared: Path, package: str) -> None:
    pytest.importorskip(package)
    folder = shared / "parity" / "spoof_metrics"
    clips, expected = np.load(folder / "quality_clips.npz"), json.loads((folder / "quality_expected.json").read_text())
    for name in ("SP_T_9749876/identical", "SP_T_9749876/world", "SP_T_9749876/noise5dB"):
        said = expected[name]
        original, copy = (clips[key] / 32767 for key in (f"{name.partition('/')[0]}/identical", name))
        if package == "pesq":
            assert pesq(original, copy, 16000, "wb").value == pytest.approx(said["pesq_wb"], abs=1e-3), name
            continue
        assert stoi(original, copy, 16000).value == pytest.approx(said["stoi"], abs=1e-4), name
        assert stoi(original, copy, 16000, extended=True).value == pytest.approx(said["estoi"], abs=1e-4), name


@pytest.mark.usefixtures("pyworld_here")
def test_equal_signals_are_at_no_distance_and_what_is_not_defined_is_nan() -> None:
    wav, silence = buzz(), torch.zeros(4000)
    same = world_distances(wav, wav, 16000)
    assert (same.mcd, same.mcd_dtw, same.f0.rmse_cents, same.f0.vuv_error, same.f0.gross_error) == (0, 0, 0, 0, 0)
    assert mel_l1(wav, wav, 16000) == stft_distance(wav, wav) == log_spectral_distance(wav, wav) == 0
    silent = world_distances(silence, wav, 16000)
    assert all(math.isnan(value) for value in (silent.mcd, silent.mcd_dtw, silent.f0.rmse_cents, silent.f0.correlation))
    assert math.isnan(stft_distance(silence, wav))
    with pytest.raises(UsageError, match="all-pass"):
        world_distances(wav, wav, 11025)


def test_half_the_gain_moves_the_levels_by_known_amounts() -> None:
    wav = buzz()
    assert log_spectral_distance(wav, 0.5 * wav) == pytest.approx(20 * math.log10(2), abs=0.01)
    assert mel_l1(wav, 0.5 * wav, 16000) == pytest.approx(math.log(2), abs=0.01)


def test_mel_cepstra_follow_the_recursion_of_the_warped_axis() -> None:
    rng = np.random.default_rng(0)
    order, alpha = 6, 0.41
    power = np.exp(rng.standard_normal((2, 33)))
    for row, made in zip(power, mel_cepstrum(power, order=order, alpha=alpha), strict=True):
        cepstrum = np.fft.irfft(np.log(row))[:33]
        cepstrum[0] /= 2
        warped = np.zeros(order + 1)
        for value in cepstrum[::-1]:
            last = warped.copy()
            warped[0] = value + alpha * last[0]
            warped[1] = (1 - alpha**2) * last[0] + alpha * last[1]
            for m in range(2, order + 1):
                warped[m] = last[m - 1] + alpha * (last[m] - warped[m - 1])
        np.testing.assert_allclose(made, warped, atol=1e-12)
    assert np.array_equal(warping(9, 8, 0.0), np.eye(9))


def naive_cost(first: np.ndarray, second: np.ndarray) -> float:
    cost = np.linalg.norm(first[:, None] - second[None], axis=2)
    total = np.full((len(first) + 1, len(second) + 1), np.inf)
    total[0, 0] = 0
    for i in range(len(first)):
        for j in range(len(second)):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return float(total[-1, -1])


@pytest.mark.parametrize(("size", "other"), [(1, 1), (1, 6), (6, 1), (20, 20), (13, 31), (31, 13)])
def test_the_warping_path_is_the_cheapest_one(size: int, other: int) -> None:
    rng = np.random.default_rng(size * other)
    first, second = rng.standard_normal((size, 3)), rng.standard_normal((other, 3))
    path, costs = warping_path(first, second)
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [size - 1, other - 1]
    assert {tuple(step) for step in np.diff(path, axis=0).tolist()} <= {(1, 1), (0, 1), (1, 0)}
    np.testing.assert_allclose(costs, np.linalg.norm(first[path[:, 0]] - second[path[:, 1]], axis=1))
    assert costs.sum() == pytest.approx(naive_cost(first, second))


def test_a_band_keeps_the_path_beside_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((40, 2)), rng.standard_normal((45, 2))
    for band in (0, 3):
        path, costs = warping_path(first, second, band=band)
        ahead = path[:, 0] - path[:, 1]
        assert -band - 5 <= ahead.min() and ahead.max() <= band
        assert costs.sum() >= naive_cost(first, second)
    assert np.array_equal(warping_path(first, first, band=0)[0], np.repeat(np.arange(40)[:, None], 2, 1))


def test_warping_undoes_a_delay() -> None:
    rng = np.random.default_rng(0)
    track = rng.standard_normal((60, 25)).cumsum(0)
    late = np.concatenate([track[:1].repeat(7, 0), track])
    assert mel_cepstral_distortion(track, late, align=True) == 0 < mel_cepstral_distortion(track, late)
    assert math.isnan(mel_cepstral_distortion(track[:0], late))


def test_errors_of_f0_are_counted_over_the_frames_they_are_defined_on() -> None:
    reference = np.array([0, 100, 100, 200, 200, 0, 100, 0])
    other = np.array([0, 100, 200, 200, 0, 50, 100, 0, 999])
    found = f0_errors(reference, other)
    assert (found.frames, found.voiced) == (8, 4)
    assert found.rmse_cents == pytest.approx(600)  # an octave in one of four frames
    assert found.vuv_error == pytest.approx(2 / 8) and found.gross_error == pytest.approx(1 / 4)
    assert found.frame_error == pytest.approx(3 / 8)
    assert found.correlation == pytest.approx(np.corrcoef([100, 100, 200, 100], [100, 200, 200, 100])[0, 1])


def test_errors_of_f0_are_nan_where_nothing_is_voiced_or_nothing_moves() -> None:
    unvoiced = f0_errors(np.zeros(4), np.array([0, 100, 100, 0]))
    assert math.isnan(unvoiced.rmse_cents) and math.isnan(unvoiced.gross_error) and math.isnan(unvoiced.correlation)
    assert unvoiced.vuv_error == unvoiced.frame_error == 0.5
    flat = f0_errors(np.full(4, 100), np.full(4, 110))
    assert math.isnan(flat.correlation) and flat.rmse_cents == pytest.approx(1200 * math.log2(1.1))
    nothing = f0_errors(np.zeros(0), np.zeros(3))
    assert math.isnan(nothing.vuv_error) and math.isnan(nothing.frame_error)
