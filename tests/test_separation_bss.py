"""Scores of separated sources: those of mir_eval, of the packages for PESQ and STOI, and of oracle masks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwater.errors import UsageError
from headwater.separation.bss import bss_eval, mixture_sdr, sdr_improvement, si_snr_improvement
from headwater.separation.losses import gram, si_snr
from headwater.separation.oracle import MASKS, oracle, oracle_masks
from headwater.separation.quality import pesq, stoi
from headwater.separation.spectrum import Stft


def recorded(shared: Path) -> tuple[dict[str, Any], Any]:
    folder = shared / "parity/separation/metrics"
    return json.loads((folder / "metrics.json").read_text()), np.load(folder / "metrics.npz")


@pytest.mark.parametrize("case", ["bss_real2", "bss_real3", "bss_filtered2"])
def test_sdr_sir_and_sar_are_those_of_mir_eval(case: str, shared: Path) -> None:
    values, arrays = recorded(shared)
    estimates, sources = (torch.from_numpy(arrays[f"{case}_{which}"])[None] for which in ("est", "ref"))
    found, expected = bss_eval(estimates, sources), values[case]["mir_eval"]
    for name in ("sdr", "sir", "sar"):
        assert getattr(found, name)[0].tolist() == pytest.approx(expected[name], abs=1e-6)
    assert found.permutation.tolist() == [expected["perm"]]
    mixture = sources.sum(1)
    assert mixture_sdr(mixture, sources)[0].tolist() == pytest.approx(values[case]["mir_eval_mixture_sdr"], abs=1e-6)
    improvement = sdr_improvement(estimates, sources, mixture).value.mean()
    assert float(improvement) == pytest.approx(values[case]["SDRi_mean"], abs=1e-6)
    own = si_snr_improvement(estimates, sources, mixture)
    scale_free = values[case]["fast_bss_eval_scale_invariant_zero_mean"]["si_sdr"]
    assert (own.value + own.mixture)[0].tolist() == pytest.approx(scale_free, abs=1e-3)
    asteroid = values[case]["asteroid_get_metrics_8k_compute_permutation"]
    assert float(own.mixture.mean()) == pytest.approx(asteroid["input_si_sdr"], abs=1e-6)
    assert float((own.value + own.mixture).mean()) == pytest.approx(asteroid["si_sdr"], abs=1e-6)


def noises(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_bss_eval_of_a_padded_batch_is_that_of_each_mixture_alone_whatever_the_order_of_estimates() -> None:
    sources = noises(0, 2, 3, 900)
    estimates = sources.roll(1, 1) + 0.3 * noises(1, 2, 3, 900)
    lengths = torch.tensor([900, 700])
    found = bss_eval(estimates, sources, lengths, taps=16)
    alone = bss_eval(estimates[1:, :, :700], sources[1:, :, :700], taps=16)
    assert found.permutation.tolist() == [[1, 2, 0]] * 2
    for name in ("sdr", "sir", "sar"):
        torch.testing.assert_close(getattr(found, name)[1:], getattr(alone, name))


def test_a_filter_of_so_many_taps_is_forgiven() -> None:
    sources = noises(2, 1, 2, 2000)
    kernel = noises(3, 1, 1, 8)
    filtered = torch.nn.functional.conv1d(sources.view(2, 1, -1), kernel, padding=7).view(1, 2, -1)[:, :, :2000]
    estimates = filtered + 0.01 * noises(4, 1, 2, 2000)
    assert float(bss_eval(estimates, sources, taps=16).sdr.min()) > 25
    assert float(si_snr(gram(estimates, sources)).diagonal(dim1=1, dim2=2).max()) < 20


def test_a_silent_source_has_no_number_and_harms_no_other_mixture() -> None:
    sources = noises(5, 2, 2, 400)
    sources[0, 1] = 0
    estimates = sources + 0.1 * noises(6, 2, 2, 400)
    found, before = bss_eval(estimates, sources, taps=8), mixture_sdr(sources.sum(1), sources, taps=8)
    assert bool(found.sdr[0].isnan().all()) and bool(before[0].isnan().all())
    torch.testing.assert_close(found.sdr[1:], bss_eval(estimates[1:], sources[1:], taps=8).sdr)


@pytest.mark.parametrize("number", [0, 1])
def test_oracle_masks_score_what_was_recorded_of_them(number: int, shared: Path) -> None:
    values, arrays = recorded(shared)
    sources = torch.from_numpy(arrays[f"oracle_{number}_ref"]).double()
    mixture = sources.sum(0)
    for name, stft in {"nfft256_hop64": Stft(256, 64), "nfft512_hop128": Stft(512, 128)}.items():
        expected = values[f"oracle_{number}"][name]
        assert set(MASKS) <= set(expected)
        spectra, spectrum = stft.analyse(sources), stft.analyse(mixture)
        for kind in MASKS:
            estimates = oracle(kind, sources, mixture, stft)
            own = si_snr(gram(estimates[None], sources[None]))[0].diagonal()
            assert own.tolist() == pytest.approx(expected[kind]["si_sdr"], abs=1e-2), kind
            masks = oracle_masks(kind, spectra, spectrum)
            assert masks.mean((1, 2)).tolist() == pytest.approx(expected[kind]["mask_mean"], abs=1e-4), kind
            stored = f"oracle_{number}_mask_{kind}_first60frames"
            if stored in arrays and name == "nfft256_hop64":
                half = torch.from_numpy(arrays[stored]).double()
                torch.testing.assert_close(masks[:, :60].transpose(1, 2), half, atol=1e-3, rtol=1e-3)


def test_oracle_masks_are_within_their_bounds_and_shares_add_up_to_one() -> None:
    sources = noises(7, 3, 2000)
    stft = Stft(256, 64)
    made = {kind: oracle_masks(kind, stft.analyse(sources), stft.analyse(sources.sum(0))) for kind in MASKS}
    for kind in ("IBM", "IRM", "WFM"):
        torch.testing.assert_close(made[kind].sum(0), torch.ones_like(made[kind][0]))
    assert bool(((made["IBM"] == 0) | (made["IBM"] == 1)).all()) and bool((made["NPSM"] >= 0).all())
    assert float(made["TPSM"].min()) == 0 and float(made["TPSM"].max()) == 1 and float(made["PSM"].min()) < 0
    with pytest.raises(UsageError, match="'IMB' is no oracle mask"):
        oracle("IMB", sources, sources.sum(0), stft)


@pytest.mark.parametrize(("size", "hop", "window"), [(256, 64, None), (512, 320, None), (512, 160, 400)])
def test_a_spectrum_leads_back_to_its_signal(size: int, hop: int, window: int | None) -> None:
    stft, x = Stft(size, hop, window), noises(8, 2, 2, 3000).double()
    spectra = stft.analyse(x)
    assert spectra.shape == (2, 2, int(stft.frames(torch.tensor(3000))), stft.bins)
    reached = (spectra.shape[2] - 1) * hop + 1
    torch.testing.assert_close(stft.synthesise(spectra, 3000)[..., :reached], x[..., :reached])
    assert stft.synthesise(spectra, 5000).shape == (2, 2, 5000)


PERCEPTUAL = {
    "pesq_wb_16k": ("pesq", 1e-3, lambda clean, noisy, rate: pesq(clean, noisy, rate, "wb")),
    "pesq_nb_16k": ("pesq", 1e-3, lambda clean, noisy, rate: pesq(clean, noisy, rate, "nb")),
    "pesq_nb_8k": ("pesq", 1e-3, lambda clean, noisy, rate: pesq(clean, noisy, rate, "nb")),
    "stoi_16k": ("pystoi", 1e-5, stoi),
    "stoi_8k": ("pystoi", 1e-5, stoi),
    "estoi_16k": ("pystoi", 1e-5, lambda clean, noisy, rate: stoi(clean, noisy, rate, extended=True)),
    "estoi_8k": ("pystoi", 1e-5, lambda clean, noisy, rate: stoi(clean, noisy, rate, extended=True)),
}


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_perceptual_scores_are_those_of_their_packages(name: str, shared: Path) -> None:
    package, tolerance, score = PERCEPTUAL[name]
    pytest.importorskip(package)
    values, arrays = recorded(shared)
    at = name.rpartition("_")[2]
    recorded_of = [number for number in range(3) if name in values[f"pesq_stoi_{number}"]]
    assert recorded_of
    for number in recorded_of:
        found = score(arrays[f"pq{number}_ref{at}"], arrays[f"pq{number}_deg{at}"], 1000 * int(at[:-1]))
        assert found.value == pytest.approx(values[f"pesq_stoi_{number}"][name], abs=tolerance)


@pytest.mark.parametrize(
    ("package", "score"), [("pesq", lambda s, e: pesq(s, e, 16000, "wb")), ("pystoi", lambda s, e: stoi(s, e, 16000))]
)
def test_silence_and_a_few_samples_have_no_score_but_a_reason(package: str, score: Any) -> None:
    pytest.importorskip(package)
    noise, silence = noises(9, 16000).numpy(), np.zeros(16000, np.float32)
    assert score(silence, noise) == (None, "the reference is silent")
    assert score(noise, silence) == (None, "the estimate is silent")
    few = score(noise[:100], noise[:100])
    assert few.value is None and few.reason


def test_estoi_has_the_same_bits_each_time_and_leaves_the_draws_of_others_alone() -> None:
    pytest.importorskip("pystoi")
    clean, noisy = noises(9, 2, 16000).numpy()
    found = set()
    for seed in range(4):
        np.random.seed(seed)
        found.add(stoi(clean, clean + noisy, 16000, extended=True).value)
        drawn = np.random.standard_normal()
        np.random.seed(seed)
        assert np.random.standard_normal() == drawn
    assert len(found) == 1


@pytest.mark.parametrize(("package", "score"), [("pesq", pesq), ("pystoi", stoi)])
def test_a_package_that_is_not_installed_is_named_with_what_to_do(
    package: str, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    rest = ("wb",) if package == "pesq" else ()
    with pytest.raises(UsageError, match=f"needs the package {package}: pip install"):
        score(np.ones(16000), np.ones(16000), 16000, *rest)


def test_a_rate_that_pesq_is_not_defined_at_is_refused() -> None:
    with pytest.raises(UsageError, match="PESQ \\(wb\\) is defined at 16000 Hz; these signals have 8000 Hz"):
        pesq(np.ones(8000), np.ones(8000), 8000, "wb")
