"""SUPERB's separation head: S3PRL's masks, losses, waveforms and recorded improvements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from headwater.errors import UsageError
from headwater.separation.bss import bss_eval, si_snr_improvement
from headwater.separation.losses import pit
from headwater.separation.superb import (
    SuperbConfig,
    SuperbHead,
    apply_masks,
    mask_loss,
    match_frames,
    quiet_end,
    targets,
)
from headwater.settings import validate

CASES = [
    "sep1_rate320_relu_npsm",
    "sep1_rate160_sigmoid_psm_gru",
    "sep2_rate320_sigmoid_log1p",
    "sep2_rate320_none_l1_am",
    "enh2_rate320_l1_am_log1p",
]


def config_of(case: dict[str, Any], **other: Any) -> SuperbConfig:
    model, data = case["modelrc"], case["datarc"]
    said = {
        "speakers": data["num_speakers"],
        "n_fft": data["n_fft"],
        "win_length": data["win_length"],
        "rnn": model["rnn"],
        "layers": model["rnn_layers"],
        "hidden": model["hidden_size"],
        "dropout": model["dropout"],
        "activation": model["non_linear"],
        "target": model["mask_type"],
        "loss": model["loss_type"],
        "log1p": model.get("log") == "log1p",
    }
    return validate(SuperbConfig, {**said, **other})


@pytest.mark.parametrize("name", CASES)
def test_masks_losses_waveforms_and_improvements_are_those_of_s3prl(name: str, shared: Path) -> None:
    folder = shared / "parity/separation/superb_head"
    case, arrays = json.loads((folder / "superb_head.json").read_text())[name], np.load(folder / "superb_head.npz")
    config, first = config_of(case), case["package"] == "separation_stft"
    hop = case["datarc"].get("hop_length", case["upstream_rate"])
    stft = config.stft(hop)
    lengths = torch.tensor(case["wav_length"])
    mixture = torch.from_numpy(arrays["common_mix_padded"])
    sources = torch.stack([torch.from_numpy(arrays[f"common_ref{k + 1}_padded"]) for k in range(config.speakers)], 1)
    frames = stft.frames(lengths)
    assert frames.tolist() == case["feat_length"]
    spectrum, spectra = stft.analyse(mixture), stft.analyse(sources)
    recorded = torch.from_numpy(arrays[f"{name}_mix_mag_first20"])
    torch.testing.assert_close(spectrum.abs()[:, :20], recorded, atol=1e-4, rtol=1e-5)

    given = [torch.from_numpy(arrays[f"{name}_feat{row}"]) for row in range(2)]
    features = torch.nn.utils.rnn.pad_sequence(given, batch_first=True)
    counts = torch.tensor([len(item) for item in given])
    head = SuperbHead(features.shape[2], config)
    head.load_state_dict(load_file(folder / f"{name}.safetensors"))
    assert sum(p.numel() for p in head.parameters()) == case["n_params"]
    with torch.no_grad():
        masks = head.eval()(match_frames(features, counts, frames, case["upstream_rate"] // hop), frames)
    for row, count in enumerate(frames.tolist()):
        for speaker in range(config.speakers):
            expected = torch.from_numpy(arrays[f"{name}_mask{speaker + 1}"])[row, :count]
            torch.testing.assert_close(masks[row, speaker, :count], expected, atol=1e-5, rtol=0)
        assert bool((masks[row, :, count:] == 0).all())

    loss = mask_loss(config, masks, spectrum, spectra, frames).loss
    assert float(loss.mean()) == pytest.approx(case["train_loss_batch2"], rel=1e-5)
    for variant, value in case["loss_variants"].items():
        if variant == "SISDR":
            made = stft.synthesise(apply_masks(config, masks, spectrum), mixture.shape[1])
            assert float(pit(made, sources, lengths).loss.mean()) == pytest.approx(value, abs=1e-4)
        elif not np.isnan(value):
            target, kind, log = (*variant.split("/"), "MSE", "none")[:3]
            other = config_of(case, target=target, loss=kind, log1p=log == "log1p")
            found = mask_loss(other, masks, spectrum, spectra, frames).loss.mean()
            assert float(found) == pytest.approx(value, rel=1e-5), variant

    for row, utterance in enumerate(case["order_after_collate"]):
        samples, count = int(lengths[row]), int(frames[row])
        x, own = mixture[row : row + 1, :samples], sources[row : row + 1, :, :samples]
        estimated = apply_masks(config, masks[row : row + 1, :, :count], stft.analyse(x))
        if first:
            made = quiet_end(stft.synthesise(estimated, samples))
        else:  # what lies beyond the last frame's centre is not rebuilt
            whole = samples // hop * hop
            made = functional.pad(stft.synthesise(estimated, whole), (0, samples - whole))
        expected = torch.from_numpy(arrays[f"{name}_hypo_{utterance}"])
        torch.testing.assert_close(made[0], expected, atol=1e-6, rtol=0)
        evaluated = case["eval"][utterance]
        alone = mask_loss(
            config, masks[row : row + 1, :, :count], stft.analyse(x), stft.analyse(own), frames[row : row + 1]
        )
        assert float(alone.loss) == pytest.approx(evaluated["loss"], rel=1e-5)
        order = bss_eval(made, own).permutation if first else None
        found = si_snr_improvement(made, own, x, permutation=order).value.mean()
        assert float(found) == pytest.approx(evaluated["si_sdr_recorded"][0], abs=1e-4)


@pytest.mark.parametrize(
    ("in_dim", "first", "second"),
    [
        (768, 51427330, 5781506),
        (1024, 53262338, 6305794),
        (240, 47642626, 4700162),
        (257, 47764482, 4734978),
    ],
)
def test_sizes_are_s3prls(in_dim: int, first: int, second: int) -> None:
    with torch.device("meta"):
        one = SuperbHead(in_dim, SuperbConfig())
        two = SuperbHead(in_dim, SuperbConfig(n_fft=1024, win_length=1024, hidden=256, activation="sigmoid"))
    assert [sum(p.numel() for p in head.parameters()) for head in (one, two)] == [first, second]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", ["MSE", "L1"])
def test_masks_and_loss_of_a_padded_batch_are_those_of_each_utterance_alone(loss: Any) -> None:
    config = SuperbConfig(n_fft=64, win_length=64, layers=1, hidden=8, dropout=0.0, loss=loss, log1p=loss == "L1")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = SuperbHead(5, config).eval()
    stft, lengths = config.stft(20), torch.tensor([400, 250])
    mixture, sources, features = noise(2, 400), noise(2, 2, 400, seed=1), noise(2, 21, 5, seed=2)
    frames = stft.frames(lengths)
    mixture[1, 250:] = 0
    sources[1, :, 250:] = 0
    with torch.no_grad():
        masks = head(features, frames)
        together = mask_loss(config, masks, stft.analyse(mixture), stft.analyse(sources), frames)
        own = head(features[1:, :13], frames[1:])
        alone = mask_loss(config, own, stft.analyse(mixture[1:, :250]), stft.analyse(sources[1:, :, :250]), frames[1:])
    torch.testing.assert_close(masks[1:, :, :13], own)
    torch.testing.assert_close(together.loss[1:], alone.loss)
    assert together.permutation[1].tolist() == alone.permutation[0].tolist()


def test_targets_in_phase_add_up_to_the_mixture_and_the_others_are_not_below_zero() -> None:
    sources = noise(1, 2, 1000)
    stft = SuperbConfig().stft(320)
    spectra, spectrum = stft.analyse(sources), stft.analyse(sources.sum(1))
    torch.testing.assert_close(targets(spectra, spectrum, "PSM").sum(1), spectrum.abs(), atol=1e-3, rtol=1e-4)
    assert bool((targets(spectra, spectrum, "NPSM") >= 0).all()) and bool((targets(spectra, spectrum, "PSM") < 0).any())


def test_features_are_cut_or_followed_by_zeros_and_another_stride_is_refused() -> None:
    features = noise(2, 10, 3)
    made = match_frames(features, torch.tensor([10, 8]), torch.tensor([9, 12]))
    assert torch.equal(made[0, :9], features[0, :9]) and torch.equal(made[1, :8], features[1, :8])
    assert made.shape == (2, 12, 3) and bool((made[0, 9:] == 0).all()) and bool((made[1, 8:] == 0).all())
    twice = match_frames(features, torch.tensor([10, 10]), torch.tensor([20, 19]), 2)
    assert torch.equal(twice[0, ::2], features[0]) and torch.equal(twice[0, 1::2], features[0])
    with pytest.raises(UsageError, match="10 frames of features stand against 20 of the spectrum: its hop must be"):
        match_frames(features, torch.tensor([10, 10]), torch.tensor([10, 20]))


def test_an_impulse_at_the_end_is_silenced_and_nothing_else() -> None:
    x = 0.1 * noise(4, 4000).tanh()
    x[0, 3800] = 1.0  # louder than all before
    x[1, 3000] = 1.0  # too early to be one
    x[2, 1500:] = 0.0  # a signal that ends long before
    x[2, 1400] = 1.0
    made = quiet_end(x)
    assert torch.equal(made[0, :3800], x[0, :3800]) and bool((made[0, 3800:] == 0).all())
    assert torch.equal(made[1:3], x[1:3])
    short = torch.ones(2, 100)
    assert torch.equal(quiet_end(short), short) and torch.equal(quiet_end(0 * x), 0 * x)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"log1p": True, "target": "PSM"}, "log1p is not defined for target PSM"),
        ({"win_length": 1024}, "win_length 1024 is longer than n_fft 512"),
    ],
)
def test_settings_that_make_no_number_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        validate(SuperbConfig, settings)
