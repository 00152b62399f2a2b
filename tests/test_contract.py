"""Every upstream of the registry keeps the contract; a new entry is tested without new test code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, skip_without_weights
from torch import nn

import headwater
from headwater.checks import POINTS, check_upstream, given, noises
from headwater.download import standing
from headwater.errors import DataError, UsageError
from headwater.nn.upstream import Features, ForeignUpstream, NoFrontend, Upstream
from headwater.registry import upstreams

BASELINES = ["fbank", "fbank_no_cmvn", "mfcc", "spectrogram", "mel", "linear", "stft_mag"]


@pytest.mark.parametrize("name", [card.name for card in upstreams])
def test_the_contract_holds(name: str) -> None:
    skip_without_weights(name)
    failed = [f"{point.claim}: {point.explanation}" for point in check_upstream(name) if not point.passed]
    assert not failed, "\n".join(failed)


def small_twins() -> list[str]:
    """The names whose weights lie elsewhere, one for each model there is: the same class, settings and small settings are one."""
    kinds = {
        json.dumps([str(card.folder), card.expert, card.config, card.small], sort_keys=True): card.name
        for card in upstreams
        if standing(card) not in (None, "bundled", "missing")
    }
    return sorted(kinds.values())


@pytest.mark.parametrize("name", small_twins())
def test_the_contract_holds_for_a_small_model_of_the_same_kind(name: str) -> None:
    card = upstreams[name]
    if not card.small:  # only where nothing but its weights says what it is like
        with pytest.raises(UsageError, match="known from its weights alone"):
            headwater.load(name, config={"random_weights": 0})
        return
    failed = [
        f"{point.claim}: {point.explanation}"
        for point in check_upstream(name, config={"random_weights": 0, **card.small})
        if not point.passed
    ]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", upstreams.names())
def test_names_and_aliases_load_the_same(name: str) -> None:
    skip_without_weights(name)
    model = headwater.load(name)
    wavs = given(model, noises(0, 4000, 2500))
    one, two = model.extract(wavs), headwater.load(upstreams[name].name).extract(wavs)
    assert all(torch.equal(a, b) for a, b in zip(one.hidden_states, two.hidden_states, strict=True))


@pytest.mark.parametrize("case", [*BASELINES, "stft_mag_log"])
def test_an_upstream_takes_the_settings_of_its_parity_case(case: str) -> None:
    """S3PRL's own settings as `config`: `single_i` of the original, at the tolerance of the fixtures."""
    arrays = np.load(ROOT / "tests/data/s3prl/frontends.npz")
    configs = json.loads((ROOT / "tests/data/s3prl/frontends.json").read_text())
    model = headwater.load(case.removesuffix("_log"), config=configs[case])
    found = model.extract([torch.from_numpy(arrays["wav"])]).hidden_states[0][0].numpy()
    tolerance = 5e-4 if case == "fbank_no_cmvn" else 1e-4
    np.testing.assert_allclose(found, arrays[case], atol=tolerance, rtol=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared beside the repository")
@pytest.mark.parametrize("case", [*BASELINES, "stft_mag_log"])
def test_whole_parity_folder(case: str) -> None:
    folder = SHARED / "parity" / "s3prl" / case
    described = json.loads((folder / "config.json").read_text())
    expected, wavs = np.load(folder / "expected.npz"), np.load(folder.parent / "input.npz")
    model = headwater.load(described["hub_entry"], config=described["config"])
    inputs = [torch.from_numpy(wavs[key]) for key in described["input"]["keys"]]
    together = model.extract(inputs)
    assert together.lengths.tolist() == described["frames_single"]
    assert model.stride == described["downsample_rate"]
    for index in range(len(inputs)):
        found = together.hidden_states[0][index, : int(together.lengths[index])].numpy()
        target = expected[f"single_{index}"].reshape(found.shape)
        np.testing.assert_allclose(found, target, atol=5e-4 if case == "fbank_no_cmvn" else 1e-4, rtol=0)


class Mixer(nn.Module):
    """A user's module: it knows nothing of lengths, and each frame sees its neighbours."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out_dim = width
        self.net = nn.GRU(80, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)[0]


PLUGIN = '''
import torch
from torch import nn

class MyModel(nn.Module):
    """mine"""
    frontend = "mel"
    def __init__(self, width=12):
        super().__init__()
        torch.manual_seed(1)
        self.out_dim = width
        self.net = nn.GRU(80, width // 2, batch_first=True, bidirectional=True)
    def forward(self, x):
        return self.net(x)[0]
'''


@pytest.fixture()
def plugin(tmp_path: Path, fresh_registry: None) -> Path:
    file = tmp_path / "my_model.py"
    file.write_text(PLUGIN)
    headwater.registry.add_plugin(file)
    return file


def test_a_bare_module_is_an_upstream(plugin: Path) -> None:
    model = headwater.load("MyModel", config={"width": 20})
    assert (model.out_dim, model.stride, model.in_dim) == (20, 160, 80)
    assert [point.claim for point in check_upstream("MyModel") if not point.passed] == []


def test_a_module_that_cannot_be_masked_is_run_by_length() -> None:
    model = ForeignUpstream(Mixer(), headwater.load("mel").frontend).eval()
    wavs = noises(1, 8000, 5000, 8000)
    together = model.extract(wavs)
    for index, wav in enumerate(wavs):
        alone = model.extract([wav]).last_hidden_state[0]
        torch.testing.assert_close(together.last_hidden_state[index, : len(alone)], alone, atol=1e-6, rtol=0)


def test_check_explains_a_broken_upstream(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = headwater.load("MyModel")
    monkeypatch.setattr(type(model), "padding_invariant", True)
    failed = {point.claim: point.explanation for point in check_upstream("MyModel") if not point.passed}
    assert "padding_invariant: false" in failed["an utterance has the same frames alone and in a batch"]
    assert set(failed) < set(POINTS)


def test_features_answer_to_s3prls_words() -> None:
    model = headwater.load("fbank")
    features = model(noises(2, 3000, 1000))
    assert isinstance(features, Features)
    assert features["hidden_states"] is features.hidden_states
    assert features["last_hidden_state"] is features.hidden_states[-1]


def test_features_go_in_where_waveforms_do() -> None:
    model = headwater.load("fbank")
    given = [torch.randn(7, model.in_dim), torch.randn(3, model.in_dim)]
    features = model.extract(given)
    assert features.lengths.tolist() == [7, 3]
    assert torch.equal(features.hidden_states[0][1, :3], given[1])


def test_an_upstream_without_front_end_refuses_waveforms_by_name() -> None:
    model = Upstream(NoFrontend("fmllr_model", 40), (40,), ("input",))
    model.name = "fmllr_model"
    with pytest.raises(UsageError, match="fmllr_model"):
        model.extract([torch.zeros(100)])
    assert model.extract([torch.zeros(5, 40)]).lengths.tolist() == [5]


@pytest.mark.parametrize(
    ("wavs", "words"),
    [
        ([], "empty list"),
        ([torch.zeros(0)], "shape"),
        ([torch.zeros(100, dtype=torch.int16)], "float"),
        ([torch.zeros(2, 100)], "shape"),
        ([torch.zeros(100), torch.zeros(4, 240)], "one list"),
        ([[0.0, 1.0]], "float tensor"),
        ([np.zeros(100)], "got ndarray"),
        ([torch.zeros(100), torch.full((100,), torch.nan)], "item 1 holds NaN"),
        ([torch.full((4, 240), torch.inf)], "item 0 holds NaN or infinity"),
    ],
)
def test_what_is_no_waveform_is_refused(wavs: list[torch.Tensor], words: str) -> None:
    with pytest.raises(DataError, match=words):
        headwater.load("fbank").extract(wavs)


def test_a_weight_file_is_never_ignored_in_silence() -> None:
    with pytest.raises(UsageError, match="takes no weight file"):
        headwater.load("fbank", ckpt="weights.pt")
