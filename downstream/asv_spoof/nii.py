"""Weights of the countermeasures of NII's project-NN-Pytorch-scripts: projects 02, 03 and 04, and the back-ends of 07 on SSL front-ends, fixed or fine-tuned.

Which system a state dict is of is seen from its names and shapes, but for three things: AM-softmax and P2SGrad have the same tensors, so the user says which it
is; `window` is that of the papers, and so is whether ending lstm takes the mean (sigmoid, cross entropy) or the sum, unless the user says something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from headwater.errors import DataError, UsageError
from headwater.fairseq import TUNED, state_dict_in
from headwater.pickles import read_pickle
from headwater.weights import fitting_state, is_safetensors, read_safetensors, shapes_of, some

from .systems import System, SystemConfig
from .trunks import LCNN, ResNet18

WINDOW = 750
# The upstream whose fixed filter bank has this shape (bins, filters); the last is that of the ASVspoof 2021 baselines.
BANKS: dict[tuple[int, int], dict[str, Any]] = {
    (257, 20): {"name": "nii_lfcc"},
    (257, 60): {"name": "nii_lfb"},
    (256, 20): {"name": "nii_lfcc", "config": {"nii": {"feat_type": "lfcc", "n_fft": 1024, "max_freq": 0.5}}},
}
# What no score depends on, by how its name begins or ends, and why.
UNUSED = {
    "input_mean": "normalisation that these systems do not use",
    "input_std": "normalisation that these systems do not use",
    "output_mean": "normalisation that these systems do not use",
    "output_std": "normalisation that these systems do not use",
    "m_frontend.0.lfcc_fb": "the fixed filter bank, which the upstream has",
    "m_frontend.0.l_dct.weight": "the fixed cosine transform, which the upstream has",
    "m_model.0.fc_mu.weight": "a second output of the ResNet that is not used",
    "m_model.0.fc_mu.bias": "a second output of the ResNet that is not used",
}
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Found:
    """A file of theirs.

    settings: what it is of, for `SystemConfig`; upstream: settings of the one that it was trained on, None where that is not seen; unused: names, and why.
    tuned: whether an SSL model lies beside this back-end, fine-tuned with it; it is not in `state` (`headwater.fairseq` reads it, as an upstream).
    """

    path: str
    state: dict[str, Tensor]
    settings: dict[str, Any]
    upstream: dict[str, Any] | None
    unused: dict[str, str]
    tuned: bool = False


def read(path: str | Path) -> Found:
    """Read a state dict, or a checkpoint that holds one under `state_dict`: safetensors, or what `torch.save` wrote (nothing in it is run).

    Raises:
        DataError: missing, broken, or no countermeasure of these projects.
    """
    content = state_dict_in(read_safetensors(path) if is_safetensors(path) else read_pickle(path))
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: no state dict (tensors by name), nor a checkpoint with one under 'state_dict'")
    state = {str(name): value for name, value in content.items() if not str(name).startswith(TUNED)}
    settings = _settings(state, str(path))
    unused = {name: UNUSED[name] for name in state if name in UNUSED}
    unused |= {name: "a counter" for name in state if name.rpartition(".")[2] == COUNTER}
    return Found(str(path), state, settings, _upstream(state), unused, tuned=len(state) < len(content))


def settled(config: SystemConfig, found: Found) -> SystemConfig:
    """The settings with what the file says filled in.

    Raises UsageError where the user said something else, and where the file does not say which loss it is of and neither did the user; DataError for sizes that
    no system has.
    """
    said = {name: getattr(config, name) for name in config.model_fields_set}
    derived = dict(found.settings)
    loss = derived.get("loss", said.get("loss"))
    if loss is None or ("loss" not in derived and loss not in ("am", "p2sgrad")):
        raise UsageError(
            f"{found.path}: AM-softmax and P2SGrad have the same tensors; say which it is (loss: am or p2sgrad)"
        )
    for name, value in derived.items():
        if name in said and said[name] != value and name != "window":
            raise UsageError(
                f"{found.path} is of a system whose {name} is {value}, yet the settings say {said[name]}; leave {name} out"
            )
    published: dict[str, Any] = {"loss": loss}
    if derived["ending"] == "lstm":
        published["reduce"] = "mean" if loss in ("sigmoid", "ce") else "sum"
    try:
        return SystemConfig.model_validate({**published, **derived, **said})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "system"
        raise DataError(f"{found.path} is of no system that there is: {where}: {first['msg']}") from None


def load(system: System, found: Found) -> None:
    """Put the file's tensors into a system of `settled` settings. `DataError` names what is missing, what does not belong, and wrong shapes."""
    names = _names(system.config, found.state)
    renamed: dict[str, Tensor] = {}
    for theirs, value in found.state.items():
        if theirs in found.unused:
            continue
        ours, change = names.get(theirs, (theirs, _same))
        renamed[ours] = change(value, system)
    state = fitting_state(renamed, shapes_of(system), found.path)
    system.load_state_dict(state, strict=False)


Change = Callable[[Tensor, System], Tensor]


def _same(value: Tensor, system: System) -> Tensor:
    return value


def _turned(value: Tensor, system: System) -> Tensor:
    """Kernels over (frequency, time) -> (time, frequency)."""
    return value.transpose(2, 3) if value.dim() == 4 else value


def _by_step(value: Tensor, system: System) -> Tensor:
    """Columns in the order of channel, time, frequency -> time, channel, frequency."""
    channels = LCNN[-1].channels // 2
    steps = system.trunk.steps(system.config.window or WINDOW)
    if value.dim() != 2 or value.shape[1] % (channels * steps):
        return value  # its shape is refused where shapes are
    return value.unflatten(1, (channels, steps, -1)).transpose(1, 2).flatten(1)


def _names(config: SystemConfig, state: Mapping[str, Tensor]) -> dict[str, tuple[str, Change]]:
    """Their name -> ours, and what is done to the tensor."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    moved: dict[str, tuple[str, Change]] = {}

    def move(theirs: str, ours: str, change: Change = _same) -> None:
        for kind in kinds:
            moved[f"{theirs}.{kind}"] = (f"{ours}.{kind}", change)

    if config.input == "bank":
        move("m_transform.0.0", "input")
    if config.input == "linear":
        move("m_frontend.0", "input")
    if config.trunk == "lcnn":
        place = int(config.input == "bank")  # in their Sequential, where activations and pooling count, too
        for number, convolution in enumerate(LCNN):
            move(f"m_transform.0.{place}", f"trunk.blocks.{number}.conv")
            place += 2 + convolution.pool
            if convolution.norm:
                move(f"m_transform.0.{place}", f"trunk.blocks.{number}.norm")
                place += 1
    if config.trunk == "resnet18":
        for part in ("conv1", "bn1", "conv5", "bn5"):
            move(f"m_model.0.{part}", f"trunk.{part}", _turned)
        for stage in range(len(ResNet18.CHANNELS)):
            for block in range(2):
                theirs, ours = f"m_model.0.layer{stage + 1}.{block}", f"trunk.blocks.{2 * stage + block}"
                for name in ("bn1", "conv1", "bn2", "conv2"):
                    move(f"{theirs}.{name}", f"{ours}.{name}", _turned)
                move(f"{theirs}.shortcut.0", f"{ours}.shortcut", _turned)
        move("m_model.0.fc", "output")
        moved["m_model.0.attention.mm_weights"] = ("ending.weight", _same)
    moved["m_pooling.0.mm_weights"] = ("ending.weight", _same)
    if config.ending == "fixed":
        move("m_output_act.0.1", "ending.linear")
        moved["m_output_act.0.1.weight"] = ("ending.linear.weight", _by_step)
        move("m_output_act.0.3", "output")
    else:
        move("m_output_act.0", "output")
    for theirs in state:
        if theirs.startswith("m_before_pooling.0."):
            layer, _, rest = theirs.removeprefix("m_before_pooling.0.").partition(".l_blstm.")
            moved[theirs] = (f"ending.layers.{layer}.lstm.{rest}", _same)
    move("m_angle.0", "criterion")
    move("m_a_softmax.0", "criterion")
    return moved


def _settings(state: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """What names and shapes say of a system."""
    shapes = {name: tuple(value.shape) for name, value in state.items() if value.dim()}
    settings: dict[str, Any] = {"input": "none", "trunk": "none", "ending": "mean"}
    bank, linear = shapes.get("m_transform.0.0.weight", ()), shapes.get("m_frontend.0.weight", ())
    if len(bank) == 2:
        settings |= {"input": "bank", "input_dim": bank[1]}
    elif len(linear) == 2:
        settings |= {"input": "linear", "input_dim": linear[0]}
    if any(name.startswith("m_transform.") for name in shapes):
        settings["trunk"] = "lcnn"
    elif any(name.startswith("m_model.0.layer1.") for name in shapes):
        settings["trunk"] = "resnet18"
    output = "m_output_act.0"
    if "m_output_act.0.1.weight" in shapes:
        output = "m_output_act.0.3"
        settings |= {"ending": "fixed", "window": WINDOW, "hidden": shapes["m_output_act.0.1.weight"][0]}
    elif settings["trunk"] == "resnet18":
        output = "m_model.0.fc"
        settings |= {"ending": "attention", "window": WINDOW}
    elif "m_pooling.0.mm_weights" in shapes:
        settings["ending"] = "attention"
    elif any(name.startswith("m_before_pooling.") for name in shapes):
        settings["ending"] = "lstm"
    if not shapes.get(f"{output}.weight"):
        raise DataError(
            f"{path}: no countermeasure of NII's projects 02, 03, 04 or 07: no {output}.weight in it; it holds {some(sorted(shapes))}"
        )
    size = shapes[f"{output}.weight"][0]
    directions = shapes.get("m_angle.0.weight", shapes.get("m_a_softmax.0.weight"))
    if directions is None:
        known = {1: "sigmoid", 2: "ce"}
        if size not in known:
            raise DataError(f"{path}: an output of {size} dims and no weights of a loss; a sigmoid has 1, a softmax 2")
        return settings | {"loss": known[size]}
    if directions[-1] == 1:
        settings["loss"] = "oc"
    elif "m_a_softmax.0.weight" in shapes:
        return settings | {"loss": "asoftmax"}
    return settings | {"embedding": size}


def _upstream(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The upstream whose frames it was trained on, as settings, as far as the file tells."""
    bank = state.get("m_frontend.0.lfcc_fb")
    if bank is None:
        spectrum = state.get("m_transform.0.0.weight")
        return {"name": "nii_power"} if spectrum is not None and spectrum.dim() == 2 else None
    return next((upstream for shape, upstream in BANKS.items() if shape == tuple(bank.shape)), None)
