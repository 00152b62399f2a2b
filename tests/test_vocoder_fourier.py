"""The probe vocoder: time, lengths, its head, its losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from headwater.errors import UsageError
from headwater.vocoder.fourier import FourierHead, FourierSettings, FourierVocoder
from headwater.vocoder.mel import LogMel, slaney_mel
from headwater.vocoder.objective import RESOLUTIONS, ProbeLoss, mel_distances, stft_distances
from headwater.vocoder.timing import MOST_HOP, plan

SMALL = FourierSettings(dim=16, blocks=2)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vocoder(stride: int = 160, offset: float = 80, **other: int) -> FourierVocoder:
    torch.manual_seed(0)
    return FourierVocoder(6, stride, offset, SMALL.model_copy(update=other)).eval()


@pytest.mark.parametrize(
    ("stride", "hop", "fold"),
    [(80, 80, 1), (160, 160, 1), (200, 200, 1), (256, 128, 1), (320, 160, 1), (20, 80, 4), (1, 64, 64), (211, 160, 1)],
)
def test_the_hop_divides_the_stride_where_it_can_or_is_a_multiple_of_it(stride: int, hop: int, fold: int) -> None:
    made = plan(stride, 0)
    assert (made.hop, made.fold) == (hop, fold)


@given(
    stride=st.integers(2, 700),
    first=st.integers(1, 40),
    more=st.integers(0, 699),
    given_hop=st.none() | st.integers(2, 300),
)
@settings(max_examples=60, deadline=None)
def test_every_frame_is_asked_for_and_those_asked_for_are_the_nearest(
    stride: int, first: int, more: int, given_hop: int | None
) -> None:
    made = plan(stride, stride / 2 if stride % 2 == 0 else (stride + 1) / 2, hop=given_hop)
    samples = first * stride + more % stride
    frames = torch.tensor([max(1, samples // stride)])
    size = int(made.frames(torch.tensor([samples]))[0])
    index = made.index(size, frames)
    assert index.shape == (1, size, made.fold)
    assert (size - 1) * made.hop < samples <= size * made.hop
    assert set(index.flatten().tolist()) == set(range(int(frames[0])))
    slot = made.hop / made.fold
    centres = (torch.arange(size * made.fold) + 0.5) * slot
    away = (index.flatten() * stride + made.offset - centres).abs()
    inside = centres < int(frames[0]) * stride  # what lies beyond the last frame takes it all the same
    assert (away[inside] <= stride / 2 + 1).all()
    if given_hop is None:
        assert made.hop <= MOST_HOP


@pytest.mark.parametrize(("stride", "offset"), [(80, 0), (160, 200), (320, 200), (20, 10), (211, 0)])
def test_lengths_are_exact_and_an_utterance_sounds_the_same_alone_and_in_a_batch(stride: int, offset: float) -> None:
    model = vocoder(stride, offset)
    samples = torch.tensor([1999, 1, 640])
    lengths = torch.div(samples, stride, rounding_mode="floor").clamp(min=1)
    frames = noise(3, int(lengths.max()), 6)
    with torch.no_grad():
        wav = model(frames, lengths, samples)
        assert wav.shape == (3, 1999)
        for row, (length, size) in enumerate(zip(lengths.tolist(), samples.tolist(), strict=True)):
            alone = model(frames[row : row + 1, :length], lengths[row : row + 1], samples[row : row + 1])
            assert alone.shape == (1, size)
            torch.testing.assert_close(wav[row, :size], alone[0], atol=1e-6, rtol=1e-5)
            assert not wav[row, size:].any()


def test_a_frame_sounds_where_it_lies() -> None:
    model = vocoder(320, 160, kernel=1)
    frames = noise(1, 10, 6)
    other = frames.clone()
    other[0, 4] += 1
    with torch.no_grad():
        wavs = [model(x, torch.tensor([10]), torch.tensor([3200])) for x in (frames, other)]
    changed = (wavs[0] != wavs[1])[0].nonzero()[:, 0]
    reach = (4 * 160 - 160) // 2  # of a window beyond its own hop
    assert 4 * 320 - reach <= changed.min() and changed.max() < 5 * 320 + reach
    assert (changed.min() + changed.max()).item() / 2 == pytest.approx(4 * 320 + 160, abs=2)


def test_frames_that_serve_twice_sound_differently() -> None:
    model = vocoder(320, 160, kernel=1)
    held = torch.ones(1, 10, 6)
    with torch.no_grad():
        wav = model(held, torch.tensor([10]), torch.tensor([3200]))[0]
    assert torch.allclose(wav[640:960], wav[960:1280], atol=1e-6)
    assert not torch.allclose(wav[640:800], wav[800:960], atol=1e-4)


@pytest.mark.parametrize("hop", [80, 147, 160])
def test_the_head_returns_the_signal_whose_spectra_it_is_given(hop: int) -> None:
    head = FourierHead(4, hop)
    head.spectrum = nn.Identity()  # type: ignore[assignment]
    wav = noise(1, 12 * hop)
    edge = (head.n_fft - hop) // 2
    around = functional.pad(wav, (edge, head.n_fft - hop - edge))
    spectra = torch.fft.rfft(around.unfold(1, head.n_fft, hop) * head.window)
    given_to_it = torch.cat([spectra.abs().clamp(min=1e-12).log(), spectra.angle()], 2)
    made = head(given_to_it, torch.tensor([12]))
    assert made.shape == wav.shape
    torch.testing.assert_close(made, wav, atol=1e-5, rtol=1e-4)


def test_an_even_kernel_and_a_stride_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="must be odd"):
        vocoder(kernel=4)
    with pytest.raises(UsageError, match="every 0 samples"):
        plan(0, 0)


def test_a_few_steps_bring_the_loss_down_and_reach_every_parameter() -> None:
    model = vocoder().train()
    loss, optimizer = ProbeLoss(16000), torch.optim.AdamW(model.parameters(), 1e-2)
    time = torch.arange(1600) / 16000
    target = 0.1 * torch.sin(2 * math.pi * 300 * time)[None]
    frames, lengths, samples = noise(1, 10, 6), torch.tensor([10]), torch.tensor([1600])
    seen = []
    for _ in range(15):
        total, count = loss(model(frames, lengths, samples), target, samples)
        optimizer.zero_grad()
        (total / count).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
        seen.append(float(total.detach()))
    assert seen[-1] < 0.8 * seen[0]


def test_the_loss_of_a_padded_batch_is_the_sum_of_its_utterances() -> None:
    loss, samples = ProbeLoss(16000), torch.tensor([4000, 1, 2311])
    wav, target = noise(3, 4000), noise(3, 4000, seed=1)
    for row, size in enumerate(samples.tolist()):
        wav[row, size:] = target[row, size:] = 0
    total, count = loss(wav, target, samples)
    alone = [
        loss(wav[row : row + 1, :size], target[row : row + 1, :size], samples[row : row + 1])[0]
        for row, size in enumerate(samples.tolist())
    ]
    torch.testing.assert_close(total, torch.stack(alone).sum(), rtol=1e-5, atol=1e-5)
    assert count == 3


def test_the_loss_is_both_distances_by_their_weights() -> None:
    samples, wav, target = torch.tensor([3000]), noise(1, 3000), noise(1, 3000, seed=1)
    stft, mel = stft_distances(wav, target, samples)[0], mel_distances(wav, target, samples, LogMel(16000))[0]
    total = ProbeLoss(16000, stft_weight=2.0, mel_weight=0.5)(wav, target, samples)[0]
    torch.testing.assert_close(total, 2 * stft + 0.5 * mel)


def test_stft_distances_are_spectral_convergence_plus_log_magnitudes() -> None:
    wav, target = noise(1, 3000), noise(1, 3000, seed=1)
    expected = 0.0
    for n_fft, hop, size in RESOLUTIONS:
        spectra = [
            torch.stft(x[0], n_fft, hop, size, torch.hann_window(size), pad_mode="constant", return_complex=True).abs()
            for x in (wav, target)
        ]
        made, wanted = (x.clamp(min=math.sqrt(1e-7)) for x in spectra)
        expected += float((wanted - made).norm() / wanted.norm() + (made.log() - wanted.log()).abs().mean())
    assert float(stft_distances(wav, target, torch.tensor([3000]))[0]) == pytest.approx(expected / 3, rel=1e-5)


def test_equal_signals_are_at_no_distance_and_silence_has_finite_gradients() -> None:
    wav, samples = noise(1, 2000), torch.tensor([2000])
    assert stft_distances(wav, wav, samples) == 0 and mel_distances(wav, wav, samples, LogMel(16000)) == 0
    silent = torch.zeros(1, 2000, requires_grad=True)
    ProbeLoss(16000)(silent, wav, samples)[0].backward()
    assert silent.grad is not None and torch.isfinite(silent.grad).all()


def test_mel_bands_are_those_of_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    for rate, high in ((16000, 8000.0), (22050, 8000.0)):
        theirs = librosa.filters.mel(sr=rate, n_fft=1024, n_mels=80, fmin=0, fmax=high)
        torch.testing.assert_close(
            slaney_mel(80, 1024, rate, 0, high), torch.from_numpy(theirs).T, atol=1e-6, rtol=1e-4
        )


def test_mel_bands_above_half_the_sample_rate_are_refused() -> None:
    with pytest.raises(UsageError, match="4000 Hz"):
        LogMel(8000)
