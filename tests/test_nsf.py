"""The neural source-filter family: published outputs, and what must hold of any weights."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from headwater.errors import DataError, UsageError
from headwater.vocoder.condition import SmoothUpsample, moving_average
from headwater.vocoder.draws import Seeded
from headwater.vocoder.filters import sinc_filtered
from headwater.vocoder.nsf import MEMBERS, Member, NsfSettings, SourceFilter
from headwater.vocoder.nsf_loss import log_power_distances, masked_distances, nsf_loss
from headwater.vocoder.nsf_weights import read_nsf, their_name, to_nii
from headwater.vocoder.source import CyclicNoiseSource, Sources, causal_convolution, phase, sines

# Trainable parameters, values and tensors of the published state dicts.
COUNTS: dict[Member, tuple[int, int, int]] = {
    "hn-nsf": (724_265, 734_715, 101),
    "hn-sinc-nsf-9": (724_265, 735_155, 100),
    "cyc-noise-nsf-4": (728_455, 739_345, 169),
}
SMALL = {"num_mels": 5, "channels": 8, "blocks": 2, "layers": 4, "harmonics": 3, "hop": 20}


class Zeros:
    """Draws that are all zero."""

    def uniform(self, channels: int) -> Tensor:
        return torch.zeros(1, channels)

    def normal(self, lengths: Sequence[int], channels: int) -> Tensor:
        return torch.zeros(1, max(lengths), channels)


class Numpy:
    """Draws of one RandomState, as those of the reference were replaced."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def uniform(self, channels: int) -> Tensor:
        return torch.from_numpy(self.state.uniform(size=(1, channels)).astype(np.float32))

    def normal(self, lengths: Sequence[int], channels: int) -> Tensor:
        return torch.from_numpy(self.state.standard_normal((1, max(lengths), channels)).astype(np.float32))


def filled(name: str, shape: Sequence[int]) -> Tensor:
    """Weights without a file: a function of the tensor's published name."""
    u = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).uniform(-1, 1, size=tuple(shape))
    scale = 0.05 if name.rpartition(".")[2].startswith("bias") or len(shape) == 1 else math.sqrt(3 / np.prod(shape[1:]))
    return torch.from_numpy((u * scale).astype(np.float32))


def fill(model: SourceFilter) -> SourceFilter:
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(filled(their_name(name, model.settings.member), value.shape))
    return model


def small(member: Member) -> SourceFilter:
    return fill(SourceFilter(NsfSettings(member=member, **SMALL))).eval()


def batch(lengths: Sequence[int], mels: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Mel, F0 with voiced and unvoiced runs, lengths; other values beyond the lengths in mel, zeros in F0."""
    generator = torch.Generator().manual_seed(3)
    size = max(lengths)
    mel = torch.randn(len(lengths), size, mels, generator=generator)
    f0 = 100 + 200 * torch.rand(len(lengths), size, generator=generator)
    f0[:, 4:7] = 0
    count = torch.tensor(lengths)
    return mel, f0 * (torch.arange(size) < count[:, None]), count


def close(ours: Tensor, theirs: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=tolerance, rtol=0)


class Case:
    """The published weights of one member and what the original code made of them."""

    def __init__(self, folder: Path, member: Member) -> None:
        self.said = json.loads((folder / "cases.json").read_text())["cases"][member]
        self.values = np.load(folder / f"{member}_case1.npz")
        self.model = read_nsf(folder / f"{member}.safetensors")
        x = torch.from_numpy(self.values["x"])[None]
        self.mel, self.f0, self.lengths = x[..., :80], x[..., 80], torch.tensor([x.shape[1]])

    def draws(self, kind: str) -> Zeros | Numpy:
        return Zeros() if kind == "zero" else Numpy(self.said["seed"])


@pytest.fixture(scope="module", params=MEMBERS)
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    return Case(shared / "parity" / "nii_nsf", request.param)


def test_published_conditions_are_reproduced(case: Case) -> None:
    with torch.no_grad():
        condition = case.model.condition(case.mel, case.f0, case.lengths)
        recurrent = case.model.conditioner.blstm(case.model.normalised(case.mel, case.f0))[0]
    close(case.model.normalised(case.mel, case.f0)[0], case.values["feat_norm"], 1e-5)
    close(recurrent[0], case.values["cond_blstm"], 1e-5)
    close(condition.frames[0].T, case.values["cond_frame"], 1e-5)
    close(condition.context[0].T[::97], case.values["cond_up_every97"], 1e-5)
    close(case.f0[0], case.values["f0_up"], 0)
    close(condition.voiced[0, ::80], case.values["uv"], 0)
    if condition.cut_off is not None:
        close(condition.cut_off[0], case.values["cut_f"], 1e-5)


@pytest.mark.parametrize("kind", ["zero", "numpy"])
def test_published_sources_and_outputs_are_reproduced(case: Case, kind: str) -> None:
    with torch.no_grad():
        sources = case.model.source(case.f0, case.lengths.tolist(), case.draws(kind))
        made = case.model(case.mel, case.f0, case.lengths, case.draws(kind)).wav
    close(sources.harmonic[0], case.values[f"har_source_{kind}"], 1e-5)
    close(sources.noise[0], case.values[f"noise_source_{kind}"], 1e-5)
    close(made[0], case.values[f"out_{kind}"], 1e-4)


def test_published_sines_and_pulses_are_reproduced(case: Case) -> None:
    if "sines_zero" in case.values:
        made = sines(case.f0, 8, torch.zeros(1, 8), 80, 16000)
        close(made[0, ::7], case.values["sines_zero"], 1e-5)
        return
    source = case.model.source
    assert isinstance(source, CyclicNoiseSource)
    draws = Numpy(case.said["seed"])
    draws.uniform(1), draws.normal([12800], 1)
    noise = 0.003 * draws.normal([12800], 1)[0, :, 0]
    pulses = source.pulses(case.f0)[0]
    heard = (pulses != 0) | (case.f0 == 0).repeat_interleave(80, 1)[0]
    close(pulses + noise * heard, case.values["pulse_train_numpy"], 1e-5)


def test_published_filters_are_reproduced(case: Case) -> None:
    time = torch.arange(12800, dtype=torch.float64)
    noise = 0.03 * np.random.RandomState(7).standard_normal(12800)
    sources = Sources(
        (0.1 * torch.sin(2 * math.pi * 200 * time / 16000)).float()[None], torch.from_numpy(noise).float()[None]
    )
    with torch.no_grad():
        condition = case.model.condition(case.mel, case.f0, case.lengths)
        wav, blocks = case.model.filtered(sources, condition)
        noise_block = case.model.noise_block(sources.noise, condition.context)
    close(wav[0], case.values["filter_only"], 1e-4)
    if "noi_block_every16" in case.values:
        close(noise_block[0, ::16], case.values["noi_block_every16"], 1e-4)
        for number, block in enumerate(blocks):
            close(block[0, ::16], case.values[f"har_block{number}_every16"], 1e-4)


def test_published_sinc_taps_are_what_an_impulse_leaves(case: Case) -> None:
    if "sinc_lp_every1600" not in case.values:
        pytest.skip("this member has fixed filters")
    cut_off = torch.from_numpy(case.values["cut_f"])
    for row, at in enumerate(range(1600, 12800, 1600), start=1):
        # Row k has its impulse k samples before the one that is looked at.
        impulses = torch.eye(31).flip(1)
        here = cut_off[None, at - 30 : at + 1].expand(31, -1)
        silence = torch.zeros_like(impulses)
        close(sinc_filtered(impulses, silence, here)[:, -1], case.values["sinc_lp_every1600"][row], 1e-5)
        close(sinc_filtered(silence, impulses, here)[:, -1], case.values["sinc_hp_every1600"][row], 1e-5)


def test_published_losses_and_gradients_are_reproduced(case: Case) -> None:
    target = torch.from_numpy(case.values["target"])[None]
    made = torch.from_numpy(case.values["out_numpy"])[None]
    for ours, theirs in zip(
        log_power_distances(made, target, case.lengths * 80), case.said["stft_terms_out_numpy"], strict=True
    ):
        assert float(ours) == pytest.approx(theirs, rel=1e-3)
    draws = case.draws("numpy")
    rendering = case.model.train()(case.mel, case.f0, case.lengths, draws)
    total, count = nsf_loss(case.model, rendering, target, case.f0, case.lengths, draws)
    total.backward()
    case.model.eval()
    gradients = {
        their_name(name, case.model.settings.member): value.grad for name, value in case.model.named_parameters()
    }
    norms = {name: float(value.norm()) for name, value in gradients.items() if value is not None}
    assert total.item() == pytest.approx(case.said["train_loss_numpy"], rel=1e-3) and count == 1
    assert len(norms) == case.said["n_params_with_grad"]
    assert math.hypot(*norms.values()) == pytest.approx(case.said["grad_norm_total"], rel=1e-2)
    for name, norm in case.said["grad_norms"].items():
        assert norms[name] == pytest.approx(norm, rel=1e-2), name


def test_published_files_are_written_back_value_for_value(case: Case, shared: Path) -> None:
    from safetensors.torch import load_file

    member = case.model.settings.member
    theirs = load_file(shared / "parity" / "nii_nsf" / f"{member}.safetensors")
    ours = to_nii(case.model)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_model_has_the_published_numbers_of_parameters(member: Member) -> None:
    model = SourceFilter(NsfSettings(member=member))
    state = to_nii(model)
    found = (sum(p.numel() for p in model.parameters()), sum(v.numel() for v in state.values()), len(state))
    assert found == COUNTS[member]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("kind", ["safetensors", "state", "epoch"])
def test_weights_in_their_names_are_read_from_every_kind_of_file(tmp_path: Path, member: Member, kind: str) -> None:
    state = {
        name: value if set(name.split(".")) & {"l_ave1", "l_ave2", "l_cut_f_smooth"} else filled(name, value.shape)
        for name, value in to_nii(SourceFilter(NsfSettings(member=member))).items()
    }
    path = tmp_path / "weights"
    epoch = {"state_dict": state, "info": "x", "optimizer": {}, "trnlog": [1.0], "vallog": [1.0], "lr_scheduler": None}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "state" else epoch, path)
    model = read_nsf(path)
    assert model.settings.member == member and not model.training
    assert torch.equal(model.harmonic_blocks[1].convs[2].weight, state["m_filter.l_har_blocks.1.l_convs.2.weight"])  # type: ignore[union-attr, index]
    assert all(torch.equal(value, state[name]) for name, value in to_nii(model).items())


def drop(state: dict[str, Any]) -> None:
    del state["m_filter.l_har_blocks.4.l_ff_3.weight"]


def more(state: dict[str, Any]) -> None:
    state["m_discriminator.weight"] = torch.zeros(1)


def reshape(state: dict[str, Any]) -> None:
    state["m_filter.l_har_blocks.4.l_ff_3.weight"] = torch.zeros(2, 16)


def not_finite(state: dict[str, Any]) -> None:
    state["m_cond.l_conv1d.bias"] = torch.full((64,), math.nan)


def no_average(state: dict[str, Any]) -> None:
    state["m_cond.l_upsamp.l_ave1.weight"] = torch.zeros(64, 1, 80)


def of_nsf_10(state: dict[str, Any]) -> None:
    for name in [name for name in state if "blstm" in name]:
        del state[name]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop, "lacks m_filter.l_har_blocks.4.l_ff_3.weight"),
        (more, "m_discriminator.weight"),
        (reshape, r"\(2, 16\)"),
        (not_finite, "NaN"),
        (no_average, "no moving average of 80"),
        (of_nsf_10, "no weights of hn-nsf"),
    ],
)
def test_a_file_that_is_not_all_of_one_member_is_refused(tmp_path: Path, spoil: Any, said: str) -> None:
    state = to_nii(SourceFilter(NsfSettings(member="hn-sinc-nsf-9")))
    spoil(state)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match=f"weights.safetensors.*{said}"):
        read_nsf(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {1: torch.zeros(1)}])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"weights\.pt"):
        read_nsf(tmp_path / "weights.pt")


def test_the_phase_does_not_drift_in_a_minute() -> None:
    generator = torch.Generator().manual_seed(0)
    f0 = 80 + 300 * torch.rand(1, 12000, generator=generator)
    f0[:, 5000:5200] = 0
    cycles = sum((Fraction(float(value)) * 80 / 16000 for value in f0[0]), Fraction(0))
    made = phase(f0, 80, 16000)
    assert made.shape == (1, 960_000) and made.dtype == torch.float64
    assert abs(float(made[0, -1]) - float(cycles % 1)) < 1e-7
    # A constant F0 that divides the rate: the last second is the first one.
    tone = sines(torch.full((1, 12000), 125.0), 8, torch.zeros(1, 8), 80, 16000)
    torch.testing.assert_close(tone[:, -16000:], tone[:, :16000], atol=1e-6, rtol=0)


def test_the_phase_goes_on_through_unvoiced_frames_or_begins_anew() -> None:
    f0 = torch.tensor([[100.0, 130.0, 0.0, 0.0, 170.0]])
    step = f0[0].double().repeat_interleave(80) / 16000
    torch.testing.assert_close(phase(f0, 80, 16000)[0], step.cumsum(0) % 1)
    anew = phase(f0, 80, 16000, restart=True)[0]
    torch.testing.assert_close(anew[:160], step[:160].cumsum(0) % 1)
    torch.testing.assert_close(anew[320:], step[320:].cumsum(0) % 1)


def test_each_overtone_is_the_whole_multiple_of_f0_and_starts_where_it_was_drawn() -> None:
    start = torch.tensor([[0.9, 0.25, 0.5]])
    made = sines(torch.full((1, 10), 200.0), 3, start, 80, 16000)[0]
    time = torch.arange(1, 801, dtype=torch.float64)
    for order, offset in ((1, 0.0), (2, 0.25), (3, 0.5)):  # that of F0 is always 0
        expected = 0.1 * torch.sin(2 * math.pi * (order * 200 * time / 16000 + offset))
        torch.testing.assert_close(made[:, order - 1].double(), expected, atol=1e-6, rtol=0)


def test_pulses_stand_at_each_period_and_at_the_start_of_each_voiced_run() -> None:
    source = CyclicNoiseSource(80, 16000)
    f0 = torch.tensor([[0.0, 200.0, 200.0, 200.0, 0.0, 100.0]])
    places = source.pulses(f0)[0].nonzero()[:, 0].tolist()
    assert places == [
        80,
        159,
        239,
        400,
    ]  # the period is 80 samples and phase 0 lies one before the run; the next one is in no voiced neighbourhood
    assert not source.pulses(torch.zeros(1, 3)).any()


def test_a_burst_follows_each_pulse_and_fades_by_the_mean_f0() -> None:
    source = CyclicNoiseSource(80, 16000)
    f0 = torch.full((1, 4), 200.0)
    burst = source.bursts(f0, Seeded.of([5]))[0]
    drawn = torch.randn(len(burst), 1, generator=torch.Generator().manual_seed(5))[:, 0]
    assert len(burst) == int(4.6 * 16000 / 200)
    time = torch.arange(len(burst))
    torch.testing.assert_close(burst, 0.003 * drawn * torch.exp(-time * 200 / (0.870 * 16000)))
    train = torch.zeros(1, 500)
    train[0, [10, 90]] = torch.tensor([1.0, 0.5])
    expected = torch.zeros(1, 500)
    for place, height in ((10, 1.0), (90, 0.5)):
        size = min(len(burst), 500 - place)
        expected[0, place : place + size] += height * burst[:size]
    torch.testing.assert_close(causal_convolution(train, burst[None]), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("factor", [2, 5, 80])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_smoothed_upsampling_is_two_moving_averages_of_repeated_frames(padding: Any, factor: int, frames: int) -> None:
    x = torch.randn(2, 3, frames, generator=torch.Generator().manual_seed(1))
    plain = x.repeat_interleave(factor, 2)
    before = (factor - 1) // 2
    for _ in range(2):
        around = functional.pad(
            plain, (before, factor - 1 - before), mode="constant" if padding == "zeros" else "replicate"
        )
        plain = torch.stack([around[..., at : at + factor].mean(-1) for at in range(frames * factor)], -1)
    torch.testing.assert_close(SmoothUpsample(factor, padding)(x, None), plain, atol=1e-6, rtol=1e-5)


def test_moving_averages_of_an_even_window_look_one_further_ahead() -> None:
    x = torch.zeros(1, 1, 9)
    x[..., 4] = 4
    assert moving_average(x, 4, "zeros")[0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0]


def test_sinc_filters_are_the_sums_over_31_taps_of_each_sample() -> None:
    generator = torch.Generator().manual_seed(2)
    low, high = torch.randn(2, 2, 60, generator=generator, dtype=torch.float64)
    cut_off = 0.1 + 0.8 * torch.rand(2, 60, generator=generator, dtype=torch.float64)
    n = np.arange(-15, 16)
    window = 0.54 + 0.46 * np.cos(2 * np.pi * n / 31)
    expected = np.zeros((2, 60))
    for row in range(2):
        for t in range(60):
            c = float(cut_off[row, t])
            pass_low = c * np.sinc(c * n) * window
            pass_high = (np.sinc(n) - c * np.sinc(c * n)) * window
            pass_low, pass_high = pass_low / pass_low.sum(), pass_high / (pass_high * (-1.0) ** n).sum()
            for k in range(min(31, t + 1)):
                expected[row, t] += float(low[row, t - k]) * pass_low[k] + float(high[row, t - k]) * pass_high[k]
    np.testing.assert_allclose(sinc_filtered(low, high, cut_off).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("member", MEMBERS)
def test_an_utterance_sounds_the_same_alone_and_in_a_batch_and_has_whole_frames(member: Member) -> None:
    model = small(member)
    mel, f0, lengths = batch([12, 1, 7])
    with torch.no_grad():
        together = model(mel, f0, lengths, Seeded.of([1, 2, 3])).wav
        assert together.shape == (3, 12 * 20)
        for row, length in enumerate(lengths.tolist()):
            alone = model(
                mel[row : row + 1, :length], f0[row : row + 1, :length], lengths[row : row + 1], Seeded.of([row + 1])
            )
            torch.testing.assert_close(together[row, : length * 20], alone.wav[0], atol=1e-6, rtol=1e-5)
            assert not together[row, length * 20 :].any()


def test_a_long_file_is_filtered_in_pieces_that_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("cyc-noise-nsf-4")
    features = batch([40, 33])
    whole = model(*features, Seeded.of([1, 2])).wav
    monkeypatch.setattr("headwater.vocoder.filters._PIECE", 100)
    with torch.no_grad():
        pieces = model(*features, Seeded.of([1, 2])).wav
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-5)
    assert not torch.equal(pieces, torch.zeros_like(pieces))


@pytest.mark.parametrize("member", MEMBERS)
def test_the_same_seeds_give_the_same_bits_and_others_do_not(member: Member) -> None:
    model = small(member)
    first, again, other = (model(*batch([9]), Seeded.of([seed])).wav for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("member", MEMBERS)
def test_unvoiced_utterances_are_rendered_from_noise(member: Member) -> None:
    mel, f0, lengths = batch([6, 4])
    f0[1] = 0
    wav = small(member)(mel, f0, lengths, Seeded.of([1, 2])).wav
    assert torch.isfinite(wav).all() and wav[1, :80].any()


@pytest.mark.parametrize("member", MEMBERS)
def test_the_loss_of_a_batch_is_the_sum_of_its_utterances(member: Member) -> None:
    model = small(member)
    mel, f0, lengths = batch([60, 35])
    target = 0.1 * torch.randn(2, 1200, generator=torch.Generator().manual_seed(4))
    target[1, 700:] = 0
    parts = []
    for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
        size = int(lengths[rows].max())
        draws = Seeded.of([5, 6][rows])
        features = mel[rows, :size], f0[rows, :size], lengths[rows]
        rendering = model(*features, draws)
        parts.append(nsf_loss(model, rendering, target[rows, : size * 20], features[1], features[2], draws))
    (total, count), *alone = parts
    torch.testing.assert_close(total, alone[0][0] + alone[1][0], rtol=1e-5, atol=1e-5)
    assert count == 2
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_masked_loss_hears_harmonics_only() -> None:
    sine = sines(torch.full((1, 60), 250.0), 1, torch.zeros(1, 1), 80, 16000)[..., 0]
    samples = torch.tensor([4800])
    far = 0.1 * torch.sin(2 * math.pi * 6000 * torch.arange(4800) / 16000)[None]
    missed = masked_distances([sine + far], sine, sine, samples)
    wrong = masked_distances([2 * sine], sine, sine, samples)
    assert missed < 0.01 * log_power_distances(sine + far, sine, samples)[0]
    assert wrong > 10 * missed
    assert masked_distances([sine], far, torch.zeros_like(sine), samples) == 0


def test_features_that_do_not_go_together_are_refused() -> None:
    mel, f0, lengths = batch([6, 4])
    with pytest.raises(UsageError, match="do not go together"):
        small("hn-nsf")(mel, f0[:, :5], lengths, Seeded.of([1, 2]))
    with pytest.raises(UsageError, match=r"\(B, T, 5\)"):
        small("hn-nsf")(mel[..., :4], f0, lengths, Seeded.of([1, 2]))
