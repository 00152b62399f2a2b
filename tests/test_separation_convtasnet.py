"""Conv-TasNet: other projects' files give what their own code gives; outputs are as long as inputs, alone as in a batch, in a stream as at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from headwater.errors import DataError, UsageError
from headwater.separation.codec import Framing
from headwater.separation.convtasnet import ConvTasNet
from headwater.separation.cumulative import CumulativeNorm
from headwater.separation.depthwise import Depthwise
from headwater.separation.foreign import Foreign, convert, load_foreign
from headwater.separation.norms import build_norm
from headwater.separation.projects import JusperLee
from headwater.separation.settings import Architecture, ConvTasNetConfig
from headwater.separation.streaming import StreamingConvTasNet
from headwater.settings import validate

DATA = ROOT / "tests/data/separation"
BUNDLED: dict[str, Any] = json.loads((DATA / "cases.json").read_text())["convtasnet"]
SMALL = {"N": 12, "L": 16, "B": 6, "H": 10, "Sc": 5, "P": 3, "X": 3, "R": 2}
NORMS = ("gLN", "channelwise", "cumulative", "fgLN", "BN")
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(kind: type[Architecture] = Architecture, **settings: Any) -> ConvTasNet:
    """A small one, seeded, whose norms and activations are not at their initial values."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ConvTasNet(kind(**{**SMALL, **settings})).eval()
        for name, tensor in made.state_dict().items():
            if "norm" in name or "activation" in name:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return made


@torch.no_grad()
def answer(net: ConvTasNet, mixture: Tensor, lengths: Tensor | None = None) -> Tensor:
    made: Tensor = net(mixture, lengths)
    return made


def weights_of(case: str) -> dict[str, Tensor]:
    prefix = f"{case}/"
    return {
        name.removeprefix(prefix): value
        for name, value in load_file(DATA / "convtasnet.safetensors").items()
        if name.startswith(prefix)
    }


def foreign(case: str, **settings: Any) -> Foreign:
    return convert(weights_of(case), {**BUNDLED[case]["config"], **settings})


@pytest.mark.parametrize("case", BUNDLED)
def test_a_foreign_file_gives_what_its_own_code_gives(case: str) -> None:
    arrays = np.load(DATA / "convtasnet.npz")
    mixture, expected = (torch.from_numpy(arrays[f"{case}/{name}"]) for name in ("mix", "expected"))
    found = foreign(case)
    torch.testing.assert_close(answer(found.model, mixture.reshape(len(mixture), -1)), expected, **TOLERANCE)
    unused = sum(value.numel() for name, value in weights_of(case).items() if is_unused(name, found))
    assert sum(p.numel() for p in found.model.parameters()) + unused == BUNDLED[case]["n_params"]


def is_unused(name: str, found: Foreign) -> bool:
    """Whether a tensor's size is counted by its own code alone: parameters that have no part in what it computes."""
    from headwater.separation.projects import PROJECTS

    project = next(kind for kind in PROJECTS if kind.name == found.project)
    return name in project.unused(found.model.config) and "running" not in name


def shared_cases() -> list[str]:
    folder = ROOT.parent / "shared/parity/separation/convtasnet"
    return sorted(file.stem for file in folder.glob("*.safetensors") if not file.stem.startswith("dp"))


@pytest.mark.parametrize("case", shared_cases() or ["convtasnet"])
def test_a_foreign_file_gives_the_recorded_masks_and_sources(case: str, shared: Path) -> None:
    folder = shared / "parity/separation/convtasnet"
    arrays = np.load(folder / f"{case}.npz")
    settings = json.loads((folder / "cases.json").read_text())[case]["config"]
    net = load_foreign(folder / f"{case}.safetensors", settings).model
    mixture = torch.from_numpy(arrays["mix"])
    mixture = mixture.reshape(len(mixture), -1)
    torch.testing.assert_close(answer(net, mixture), torch.from_numpy(arrays["expected"]), **TOLERANCE)
    with torch.no_grad():
        w = net.encoder(mixture, None)
        if "mask" in arrays:
            torch.testing.assert_close(net.masker(w, None), torch.from_numpy(arrays["mask"]), **TOLERANCE)
    if net.config.encoder_activation == "linear":
        torch.testing.assert_close(w, torch.from_numpy(arrays["encoder_out"]), **TOLERANCE)


def test_a_foreign_file_that_is_causal_in_name_only_loads_and_says_so() -> None:
    found = foreign("kx_gln_causal_contradiction")
    assert found.notes[0].startswith("It is said to be causal and is not: it has norm gLN")
    with pytest.raises(UsageError, match="cannot separate a stream, it is not causal: norm gLN"):
        StreamingConvTasNet(found.model)


def test_a_foreign_file_can_be_asked_for_the_end_that_its_own_code_loses() -> None:
    mixture = torch.from_numpy(np.load(DATA / "convtasnet.npz")["jl_softmax_tail/mix"])
    own = convert(weights_of("jl_softmax_tail"), BUNDLED["jl_softmax_tail"]["config"])
    whole = convert(weights_of("jl_softmax_tail"), BUNDLED["jl_softmax_tail"]["config"], padding="cut")
    assert any("samples at the end are missing" in note for note in own.notes)
    assert answer(own.model, mixture).shape[2] == 408 and answer(whole.model, mixture).shape[2] == 413


def test_settings_saved_with_the_weights_need_not_be_given_and_the_prefix_of_dataparallel_is_no_matter(
    tmp_path: Path,
) -> None:
    config = BUNDLED["kx_bn_eval_relu"]["config"]
    state = {f"module.{name}": value for name, value in weights_of("kx_bn_eval_relu").items()}
    torch.save({**config, "epoch": 3, "state_dict": state}, tmp_path / "final.pth.tar")
    found = load_foreign(tmp_path / "final.pth.tar")
    assert found.project == "kaituoxu" and found.model.config.norm == "BN"


def test_a_foreign_file_that_is_not_whole_or_not_fully_said_is_refused_by_name() -> None:
    state, config = weights_of("as_cgln_causal_skip_relu"), BUNDLED["as_cgln_causal_skip_relu"]["config"]
    with pytest.raises(UsageError, match="may be any number of repeats; give n_blocks"):
        convert(state, {})
    with pytest.raises(UsageError, match="no tensor of this file of asteroid says norm_type and mask_act"):
        convert(state, {"n_blocks": 3})
    for name in ("stride", "encoder_activation", "mask_act"):
        with pytest.raises(UsageError, match=f"no tensor of this file of asteroid says {name}; give it"):
            convert(state, {key: value for key, value in config.items() if key != name})
    with pytest.raises(UsageError, match="n_filters was given as 13; its tensors say 12"):
        convert(state, {**config, "n_filters": 13})
    with pytest.raises(UsageError, match="'X' is no setting of asteroid"):
        convert(state, {**config, "X": 3})
    with pytest.raises(UsageError, match="norm_type of asteroid is 'LN'; known are"):
        convert(state, {**config, "norm_type": "LN"})
    less = {name: value for name, value in state.items() if name != "masker.TCN.2.shared_block.1.weight"}
    with pytest.raises(DataError, match=r"lacks masker\.TCN\.2\.shared_block\.1\.weight"):
        convert(less, config)
    with pytest.raises(DataError, match="has extra, which does not belong"):
        convert({**state, "extra": torch.ones(2)}, config)
    with pytest.raises(DataError, match=r"masker\.bottleneck\.weight has the shape"):
        convert({**state, "masker.bottleneck.1.weight": torch.ones(6, 11, 1)}, config)
    with pytest.raises(DataError, match="NaN"):
        convert({**state, "masker.mask_net.0.weight": torch.tensor([torch.nan])}, config)
    with pytest.raises(DataError, match="no Conv-TasNet of kaituoxu, JusperLee"):
        convert({"weight": torch.ones(3)})


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 8000.7, -8000, 0, True, "8000"])
def test_a_sample_rate_that_is_none_is_refused(rate: Any) -> None:
    config = BUNDLED["as_hop_not_half"]["config"]
    with pytest.raises(DataError, match=r"sample_rate is .*; it is a whole number of Hz"):
        convert(weights_of("as_hop_not_half"), {**config, "sample_rate": rate})
    assert convert(weights_of("as_hop_not_half"), {**config, "sample_rate": 16000.0}).sample_rate == 16000
    assert convert(weights_of("as_hop_not_half"), {**config, "sample_rate": None}).sample_rate is None


def test_a_file_whose_few_tensors_ask_for_a_large_model_is_refused_before_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = weights_of("as_hop_not_half")
    wide = {
        "encoder.filterbank._filters": torch.ones(60000, 1, 20),
        "masker.bottleneck.1.weight": torch.ones(60000, 1, 1),
        "masker.TCN.0.shared_block.0.weight": torch.ones(60000, 1, 1),
        "masker.mask_net.1.weight": torch.ones(120000, 1, 1),
    }
    made: list[torch.device] = []
    built = ConvTasNet.__init__

    def watched(self: ConvTasNet, *arguments: Any) -> None:
        built(self, *arguments)
        made.append(next(self.parameters()).device)

    monkeypatch.setattr(ConvTasNet, "__init__", watched)
    with pytest.raises(DataError, match="has the shape"):
        convert(
            {**state, **wide},
            {**BUNDLED["as_hop_not_half"]["config"], "n_filters": 60000, "bn_chan": 60000, "hid_chan": 60000},
        )
    assert made == [torch.device("meta")]


def test_asteroid_takes_channelwise_norms_where_causal_and_gln_are_asked_for() -> None:
    found = foreign("as_cgln_causal_skip_relu", norm_type="gLN")
    assert found.model.config.norm == "channelwise" and "asteroid's code takes channel-wise norms" in found.notes[0]


# Sizes and counts of parameters of `N L B H Sc X R` at P = 3: asteroid with skip path, without, kaituoxu, JusperLee, and asteroid for three speakers.
TABLE = [
    ((128, 40, 128, 256, 128, 7, 2), (1472157, 1011613, 1002268, 1011741, 1488669)),
    ((512, 40, 128, 256, 128, 7, 2), (1651869, 1191325, 1181212, 1191837, 1717917)),
    ((512, 40, 128, 512, 512, 7, 2), (6211485, 2141085, 2123804, 2141597, 6474141)),
    ((512, 40, 256, 512, 256, 7, 2), (6013213, 4174621, 4155420, 4175133, 6144797)),
    ((512, 40, 128, 512, 128, 6, 4), (5075121, 3499185, 3470384, 3499697, 5141169)),
    ((512, 16, 128, 512, 128, 8, 3), (5050545, 3474609, 3445808, 3475121, 5116593)),
    ((256, 20, 256, 512, 256, 8, 4), (12954945, 8752449, 8710720, 8752705, 13020737)),
]


def parameters(**settings: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ConvTasNet(Architecture(**settings)).parameters())


@pytest.mark.parametrize(("sizes", "counts"), TABLE)
def test_sizes_are_the_published_ones_but_for_what_is_never_used(
    sizes: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    said = dict(zip(("N", "L", "B", "H", "Sc", "X", "R"), sizes))
    blocks = said["X"] * said["R"]
    last = said["H"] * said["B"] + said["B"]  # a residual convolution after which nothing is read
    second = blocks * (1 + 2 * said["H"])  # JusperLee's second activations and norms
    plain = {"second_norm": False, "mask_prelu": False, "codec_bias": True}
    assert (
        parameters(**said) + last,
        parameters(**{**said, "Sc": 0}),
        parameters(**{**said, "Sc": 0}, bias=False, mask_prelu=False),
        parameters(**{**said, "Sc": 0}, **plain) + second,
        parameters(**said, speakers=3) + last,
    ) == counts


def test_all_recorded_sizes_and_receptive_fields_are_ours(shared: Path) -> None:
    recorded = json.loads((shared / "parity/separation/param_counts.json").read_text())["table"]
    assert recorded
    for row in recorded:
        said = {key: row[key] for key in ("N", "L", "B", "H", "Sc", "P", "X", "R")}
        last = said["H"] * said["B"] + said["B"]
        second = said["X"] * said["R"] * (1 + 2 * said["H"])
        plain = {"second_norm": False, "mask_prelu": False, "codec_bias": True}
        ours = {
            "asteroid_skip": parameters(**said) + last,
            "asteroid_noskip": parameters(**{**said, "Sc": 0}),
            "asteroid_skip_3src": parameters(**said, speakers=3) + last,
            "kaituoxu_gLN": parameters(**{**said, "Sc": 0}, bias=False, mask_prelu=False),
            "JusperLee_gln": parameters(**{**said, "Sc": 0}, **plain) + second,
            "JusperLee_skip_gln (Sc=B always)": parameters(**{**said, "Sc": said["B"]}, **plain) + second + last,
            "receptive_field_samples": Architecture(**said).receptive_field,
        }
        assert ours == {key: row[key] for key in ours}, said


def test_the_network_of_the_notes_is_the_one_that_jusperlees_files_make() -> None:
    from headwater.cli.run_settings import parser, settings_of

    recipe = settings_of(parser().parse_args(["-d", "separation_convtasnet", "-v", "convtasnet-notes"]))[0]
    ours = validate(ConvTasNetConfig, recipe["task"]["net"])
    sizes = {"N": 512, "L": 40, "B": 128, "H": 256, "P": 3, "X": 7, "R": 2}
    theirs = {**JusperLee().differs({"separation.0.0.norm_1.weight": torch.ones(256, 1)}, {}), "padding": "cut"}
    assert ours == validate(ConvTasNetConfig, {**sizes, **theirs, "mask": "sigmoid"})


def test_sizes_of_torchaudio_and_of_deep_encoders_are_the_published_ones() -> None:
    base = {"N": 512, "L": 16, "B": 128, "H": 512, "X": 8, "R": 3}
    assert parameters(**base, Sc=128) == 4984881
    skips = 24 * (512 * 128 + 128)  # created, and not used unless asked for
    for dilations, count in (([1, 1, 1], 9772727), ([1, 2, 4, 8], 11346617)):
        assert parameters(**base, Sc=0, deep=dilations, codec_bias=True, mask_prelu=False) + skips == count


def test_an_output_has_as_many_samples_as_the_input_at_every_length() -> None:
    samples = torch.arange(1, 40001)
    for length, hop in ((16, 8), (20, 10), (40, 20), (15, 7), (20, 5), (32, 12), (7, 7)):
        framing = Framing(length, hop)
        frames = framing.frames(samples)
        assert bool((framing.samples(frames) - framing.before >= samples).all())
        assert bool(((frames - 1) * hop - framing.before < samples).all())  # and no frame beyond
        assert all(framing.frames(number) == int(frames[number - 1]) for number in (1, 15, 16, 17, 32000, 32007))


def test_what_other_code_makes_of_lengths_is_made_here() -> None:
    # T, frames of whole ones, JusperLee's samples, naplab's frames; L = 16
    for samples, frames, left, padded in (
        (32000, 3999, 32000, 4002),
        (32007, 3999, 32000, 4002),
        (32008, 4000, 32008, 4004),
    ):
        assert Framing(16, 8, "short").frames(samples) == frames
        assert Framing(16, 8, "short").answered(samples) == left
        assert Framing(16, 8, "naplab").frames(samples) == padded
    assert Framing(40, 20, "short").answered(31999) == 31980


@pytest.mark.parametrize("settings", [{}, {"L": 20, "stride": 5}, {"L": 15}, {"deep": [1, 2], "codec_bias": True}])
def test_a_model_answers_every_length(settings: dict[str, Any]) -> None:
    net = model(ConvTasNetConfig, X=1, R=1, **settings)
    lengths = {*range(1, 2 * net.config.L + 1)}
    if not settings:
        lengths |= set(torch.randint(1, 40001, (200,), generator=torch.Generator().manual_seed(0)).tolist())
    mixture = noise(1, 40000)
    for length in lengths:
        y = answer(net, mixture[:, :length])
        assert y.shape == (1, 2, length) and bool(y.isfinite().all())


def test_the_last_samples_are_separated_too() -> None:
    net = model(ConvTasNetConfig)
    for length in range(400, 416):
        assert bool((answer(net, noise(1, length))[:, :, -4:].abs() > 0).all())


@pytest.mark.parametrize("padding", ["cut", "naplab", "zeros", "short"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_padded_batch_gives_each_what_it_gets_alone(norm: str, padding: str) -> None:
    for settings in ({}, {"Sc": 0, "P": 4, "deep": [1, 2], "codec_bias": padding != "zeros"}):
        net = model(norm=norm, padding=padding, mask="relu", **settings)
        lengths = torch.tensor([400, 133, 250, 40])
        batch = noise(4, 400)  # what lies beyond the lengths is noise, too
        together = answer(net, batch, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = answer(net, batch[row : row + 1, :length])[0]
            torch.testing.assert_close(together[row, :, : alone.shape[1]], alone, atol=1e-6, rtol=1e-5)
            assert bool((together[row, :, alone.shape[1] :] == 0).all())


@pytest.mark.parametrize("settings", [{}, {"deep": [1, 2]}, {"P": 4}, {"L": 20, "stride": 5}])
@pytest.mark.parametrize("norm", ["channelwise", "cumulative", "BN"])
def test_future_samples_change_nothing_in_a_causal_model(norm: str, settings: dict[str, Any]) -> None:
    net = model(ConvTasNetConfig, norm=norm, causal=True, **settings)
    x = noise(1, 400)
    other = x.clone()
    other[:, 200:] = noise(1, 200, seed=1)
    changed = (answer(net, x) != answer(net, other)).any(1)[0]
    # The frames that sample 200 lies in begin at most L - 1 samples before it.
    assert 200 - net.config.L < int(changed.nonzero()[0]) <= 200


def test_a_recorded_look_ahead_is_that_of_foreign_models(shared: Path) -> None:
    recorded = json.loads((shared / "parity/separation/inference/inference.json").read_text())["causality"]
    folder = shared / "parity/separation/convtasnet"
    cases = json.loads((folder / "cases.json").read_text())
    for case, expected in recorded.items():
        net = load_foreign(folder / f"{case}.safetensors", cases[case]["config"]).model
        x = noise(1, expected["T"])
        other = x.clone()
        other[:, expected["perturbed_from"] :] += 1.0
        first = int((answer(net, x) != answer(net, other)).any(1)[0].nonzero()[0])
        if expected["lookahead_samples"] < net.config.L:
            assert first == expected["first_changed_output_sample"], case
        else:
            assert first <= expected["first_changed_output_sample"] < expected["perturbed_from"] - net.config.L, case


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"causal": True}, "causal: true contradicts norm gLN"),
        ({"causal": True, "norm": "fgLN"}, "norm fgLN"),
        ({"causal": True, "norm": "cumulative", "input_norm": "gLN"}, "contradicts input_norm gLN"),
        ({"norm": "cLN"}, "cLN is said of two norms: write cumulative"),
        ({"padding": "zeros"}, "describe foreign files"),
        ({"stride": 17, "L": 16}, "stride 17 is longer than a filter"),
        ({"Norm": "gLN"}, "Norm"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        validate(ConvTasNetConfig, settings)


STREAMS = [
    {"norm": "cumulative"},
    {"norm": "channelwise", "Sc": 0, "mask": "softmax", "speakers": 3},
    {"norm": "BN", "L": 20, "stride": 5, "P": 4},
    {"norm": "cumulative", "deep": [1, 2], "codec_bias": True, "L": 15, "mask": "relu"},
]


@pytest.mark.parametrize("settings", STREAMS)
def test_a_stream_gives_what_the_whole_gives(settings: dict[str, Any]) -> None:
    net = model(ConvTasNetConfig, causal=True, **settings)
    generator = torch.Generator().manual_seed(0)
    for length in (1, 5, 15, 16, 17, 300, 413):
        x = noise(length, seed=length)
        stream, made, at = StreamingConvTasNet(net), [], 0
        while at < length:
            size = int(torch.randint(0, 40, (1,), generator=generator))
            made.append(stream.push(x[at : at + size]))
            at += size
            # So much is out at least: what is in, less the latency.
            assert sum(part.shape[1] for part in made) >= min(at, length) - stream.latency
        made.append(stream.finish())
        torch.testing.assert_close(torch.cat(made, 1), answer(net, x[None])[0], atol=1e-6, rtol=1e-5)


def test_a_stream_without_samples_ends_without_any() -> None:
    stream = StreamingConvTasNet(model(ConvTasNetConfig, causal=True, norm="cumulative"))
    assert stream.push(torch.zeros(0)).shape == (2, 0) and stream.finish().shape == (2, 0)


def test_a_model_that_looks_ahead_separates_no_stream() -> None:
    with pytest.raises(UsageError, match="cannot separate a stream, it is not causal; use one with causal: true"):
        StreamingConvTasNet(model())
    lookahead = model(causal=True, norm="channelwise", deep=[1], codec_lookahead=True)
    with pytest.raises(UsageError, match="look-ahead of its deep encoder"):
        StreamingConvTasNet(lookahead)


def test_sums_of_a_cumulative_norm_do_not_drift_and_constant_frames_are_no_trouble() -> None:
    norm, state = CumulativeNorm(4, affine=False), None
    x = 1000 + noise(1, 4, 500)
    for _ in range(50):
        last, state = norm.stream(x, state)
    settled = (x.double() - x.double().mean()) / x.double().std(correction=0)
    torch.testing.assert_close(last[0, :, -1].double(), settled[0, :, -1], atol=1e-3, rtol=1e-3)
    assert bool(norm(torch.full((1, 4, 100), 0.1)).isfinite().all())


def test_the_gradient_of_the_cumulative_norm_is_that_of_its_formula() -> None:
    norm = CumulativeNorm(5)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6.0))
    x = noise(2, 5, 40).requires_grad_()
    mine = torch.autograd.grad((norm(x) * noise(2, 5, 40, seed=1)).sum(), [x, norm.weight, norm.bias])
    wide = x.double()
    count = 5.0 * torch.arange(1, 41)
    mean = wide.sum(1).cumsum(1) / count
    scale = (wide.square().sum(1).cumsum(1) / count - mean.square() + norm.eps).rsqrt()
    y = (wide - mean[:, None]) * scale[:, None] * norm.weight[:, None] + norm.bias[:, None]
    plain = torch.autograd.grad((y * noise(2, 5, 40, seed=1)).sum(), [x, norm.weight, norm.bias])
    for one, other in zip(mine, plain):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "dilation", "causal"), [(3, 1, False), (3, 64, False), (3, 2, True), (4, 2, False), (1, 1, True)]
)
def test_a_depthwise_convolution_is_torchs_with_its_gradients(kernel: int, dilation: int, causal: bool) -> None:
    layer = Depthwise(3, kernel, dilation, causal=causal, bias=True).double()
    x = noise(2, 3, 30).double().requires_grad_()
    before = layer.reach if causal else layer.reach // 2
    padded = functional.pad(x, (before, layer.reach - before))
    expected = functional.conv1d(padded, layer.weight, layer.bias, dilation=dilation, groups=3)
    wanted, asked = noise(2, 3, 30, seed=1).double(), [x, layer.weight, layer.bias]
    assert layer.bias is not None
    torch.testing.assert_close(layer(x), expected)
    for one, other in zip(
        torch.autograd.grad((layer(x) * wanted).sum(), asked), torch.autograd.grad((expected * wanted).sum(), asked)
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("norm", NORMS)
def test_norms_without_scale_and_shift_have_no_parameters_and_the_same_statistics(norm: Any) -> None:
    plain, affine = (build_norm(norm, 4, affine=said, eps=1e-8) for said in (False, True))
    assert not list(plain.parameters()) and len(list(affine.parameters())) == 2
    x = noise(2, 4, 30)
    torch.testing.assert_close(plain(x, None), affine(x, None))


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_learns(norm: str) -> None:
    net = model(norm=norm, deep=[1]).train()
    net(noise(2, 100), torch.tensor([100, 70])).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []


def test_frames_of_an_upstream_beside_the_encoders_have_a_part_in_the_masks() -> None:
    torch.manual_seed(0)
    net = ConvTasNet(ConvTasNetConfig(**SMALL), beside_dim=7).eval()
    mixture, lengths = noise(2, 200), torch.tensor([200, 120])
    counts = net.frame_counts(lengths)
    beside = noise(2, 7, int(counts.max()), seed=1)
    centres = net.frame_centres(200)
    assert len(centres) == int(counts[0]) and centres[:3].tolist() == [0, 8, 16]
    with torch.no_grad():
        y = net(mixture, lengths, beside)
        assert not torch.equal(y, net(mixture, lengths, beside.flip(1)))
        alone = net(mixture[1:, :120], None, beside[1:, :, : int(counts[1])])
    torch.testing.assert_close(y[1:, :, :120], alone, atol=1e-6, rtol=1e-5)
