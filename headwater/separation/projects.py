"""The projects that have published a Conv-TasNet: what they call its parts and settings, and how their networks differ from the paper's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from headwater.separation.naming import BLOCK, Project, Said, Weights
from headwater.separation.settings import Architecture

# The parts outside of the blocks that every project has, in the order that `_outside` takes their names in.
OUTSIDE = ("encoder.conv", "masker.norm", "masker.bottleneck", "masker.output", "decoder.conv")


def _block(names: str) -> dict[str, str]:
    """Its names of the parts of a block."""
    return dict(zip(BLOCK, names.split()))


def _outside(names: str, activation: str | None = None) -> dict[str, str]:
    """Its names of the parts outside of the blocks; `activation`: of the PReLU before the masks, where it has one."""
    named = dict(zip(OUTSIDE, names.split()))
    return named if activation is None else named | {"masker.output_activation": activation}


def _batch_norm(weights: Weights, name: str) -> dict[str, str]:
    return {"norm": "BN"} if f"{name}.running_mean" in weights else {}


class _Published(Project):
    """`blocks`: where one lies, by its `repeat` and its `place` in it, or by its `index` among all."""

    blocks: ClassVar[str]

    def block(self, repeat: int | str, place: int | str, index: int | str) -> str:
        return self.blocks.format(repeat=repeat, place=place, index=index)

    def skips(self, weights: Weights) -> int:
        """Channels of the skip path; 0 where there is none."""
        return len(weights.get(f"{self.block(0, 0, 0)}.{self.inside['skip']}.bias", ()))


class Kaituoxu(_Published):
    """https://github.com/kaituoxu/Conv-TasNet"""

    name = "kaituoxu"
    mark = "encoder.conv1d_U.weight"
    blocks = "separator.network.2.{repeat}.{place}.net"
    settings: ClassVar = {
        **{key: key for key in "NLBHPXR"},
        "C": "speakers",
        "norm_type": "norm",
        "causal": "causal",
        "mask_nonlinear": "mask",
    }
    parts: ClassVar = _outside(
        "encoder.conv1d_U separator.network.0 separator.network.1 separator.network.3 decoder.basis_signals"
    )
    inside: ClassVar = _block("0 1 2 3.net.0 3.net.1 3.net.2 3.net.3")
    scale: ClassVar = {"weight": "gamma", "bias": "beta"}

    def within(self, config: Architecture) -> Mapping[str, str]:
        # A causal block has one module more, which cuts.
        late = {"activation2": "3.net.2", "norm2": "3.net.3", "residual": "3.net.4"}
        return {**self.inside, **late} if config.causal else self.inside

    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        return {
            **_batch_norm(weights, f"{self.block(0, 0, 0)}.2"),
            "causal": f"{self.block(0, 0, 0)}.3.net.4.weight" in weights,
            "input_norm": "channelwise",
            "encoder_activation": "relu",
            "bias": False,
            "mask_prelu": False,
            "Sc": 0,
            "padding": "zeros",
        }


class JusperLee(_Published):
    """https://github.com/JusperLee/Conv-TasNet"""

    name = "JusperLee"
    mark = "separation.0.0.conv1x1.weight"
    blocks = "separation.{repeat}.{place}"
    settings: ClassVar = {
        **{key: key for key in "NLBHPXR"},
        "norm": "norm",
        "num_spks": "speakers",
        "activate": "mask",
        "causal": "causal",
    }
    parts: ClassVar = _outside("encoder LayerN_S BottleN_S gen_masks decoder")
    inside: ClassVar = _block("conv1x1 PReLU_1 norm_1 dwconv PReLU_2 norm_2 Sc_conv skip_conv")

    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        first = f"{self.block(0, 0, 0)}.norm_1"
        gain = weights.get(f"{first}.weight")
        told = {"norm": "gLN" if gain is not None and gain.ndim == 2 else "channelwise"}
        return {
            **told,
            **_batch_norm(weights, first),
            "input_norm": "channelwise",
            "eps": 1e-5,
            "codec_bias": True,
            "second_norm": False,
            "mask_prelu": False,
            "Sc": 0,
            "padding": "short",
        }

    def dead(self, config: Architecture, last: bool) -> tuple[str, ...]:
        return ("activation2", "norm2", *super().dead(config, last))


class JusperLeeSkip(JusperLee):
    """Its file with a skip path, of as many channels as the residual one."""

    name = "JusperLee, with skip"
    mark = "separation.0.conv1x1.weight"
    blocks = "separation.{index}"
    settings: ClassVar = {**JusperLee.settings, "skip_con": "skips"}
    needed: ClassVar[tuple[str, ...]] = ("causal", "mask", "skips")

    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        return super().differs(weights, said) | {"Sc": self.skips(weights) if said.get("skips") else 0}

    def dead(self, config: Architecture, last: bool) -> tuple[str, ...]:
        return super().dead(config, last) + (() if config.Sc else ("skip",))


class JusperLeeDeep(JusperLeeSkip):
    """https://github.com/JusperLee/Deep-Encoder-Decoder-Conv-TasNet; three further layers are not dilated, four are."""

    name = "JusperLee, deep"
    mark = "separation.separation.0.conv1x1.weight"
    blocks = "separation.separation.{index}"
    needed: ClassVar[tuple[str, ...]] = ("causal", "mask")
    # Its `Output` is the residual convolution, its `Sc_conv` that of the skip path.
    inside: ClassVar = {**JusperLee.inside, "residual": "Output", "skip": "Sc_conv"}
    parts: ClassVar = {
        **{ours: theirs for ours, theirs in JusperLee.parts.items() if ours != "decoder.conv"},
        "encoder.conv": "encoder.sequential.0",
    }

    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        found = [name for name in weights if re.fullmatch(r"encoder\.sequential\.\d+\.bias", name)]
        layers = len(found) - 1
        return super().differs(weights, said) | {
            "deep": [2**layer for layer in range(layers)] if layers == 4 else [1] * layers,
            "second_norm": True,
            "codec_lookahead": True,
            "late_cut": True,
        }

    def codec(self, path: str, config: Architecture) -> str:
        side, *within = path.split(".")
        if within == ["conv"]:
            return f"decoder.sequential.{2 * len(config.deep)}"
        return f"{side}.sequential.{2 * int(within[1]) + (side == 'encoder') + (within[2] == 'activation')}"

    def dead(self, config: Architecture, last: bool) -> tuple[str, ...]:
        return ("residual",) if last and config.Sc else () if config.Sc else ("skip",)


class Asteroid(_Published):
    """https://github.com/asteroid-team/asteroid"""

    name = "asteroid"
    mark = "masker.TCN.0.shared_block.0.weight"
    blocks = "masker.TCN.{index}"
    settings: ClassVar = {
        "n_src": "speakers",
        "n_filters": "N",
        "kernel_size": "L",
        "stride": "stride",
        "bn_chan": "B",
        "hid_chan": "H",
        "skip_chan": "",
        "n_blocks": "X",
        "n_repeats": "R",
        "conv_kernel_size": "P",
        "norm_type": "norm",
        "mask_act": "mask",
        "causal": "causal",
        "encoder_activation": "encoder_activation",
        "sample_rate": "",
    }
    needed: ClassVar[tuple[str, ...]] = (*Project.needed, "stride", "encoder_activation")
    words: ClassVar = {
        **Project.words,
        "encoder_activation": {None: "linear", "linear": "linear", "relu": "relu"},
    }
    parts: ClassVar = _outside(
        "encoder.filterbank._filters masker.bottleneck.0 masker.bottleneck.1 masker.mask_net.1 decoder.filterbank._filters",
        activation="masker.mask_net.0",
    )
    inside: ClassVar = _block(
        "shared_block.0 shared_block.1 shared_block.2 shared_block.3 shared_block.4 shared_block.5 res_conv skip_conv"
    )
    scale: ClassVar = {"weight": "gamma", "bias": "beta"}

    def within(self, config: Architecture) -> Mapping[str, str]:
        return {**self.inside, "depthwise": "shared_block.3.0"} if config.causal else self.inside

    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        first = self.block(0, 0, 0)
        norm = _batch_norm(weights, f"{first}.{self.inside['norm1']}")
        return {
            **norm,
            "causal": f"{first}.{self.inside['depthwise']}.0.weight" in weights,
            "Sc": self.skips(weights),
            "padding": "zeros",
        }

    def settled(self, said: Said, read: Said) -> tuple[Said, list[str]]:
        if not read["causal"] or said.get("norm") not in ("gLN", "fgLN"):
            return said, []
        return {**said, "norm": "channelwise"}, [
            "Its settings say causal and a norm over the whole utterance; asteroid's code takes channel-wise norms then, and so does this model."
        ]


class Torchaudio(_Published):
    """https://docs.pytorch.org/audio/stable/generated/torchaudio.models.ConvTasNet.html"""

    name = "torchaudio"
    mark = "mask_generator.input_conv.weight"
    blocks = "mask_generator.conv_layers.{index}"
    settings: ClassVar = {
        "num_sources": "speakers",
        "enc_kernel_size": "L",
        "enc_num_feats": "N",
        "msk_kernel_size": "P",
        "msk_num_feats": "B",
        "msk_num_hidden_feats": "H",
        "msk_num_layers": "X",
        "msk_num_stacks": "R",
        "msk_activate": "mask",
    }
    parts: ClassVar = _outside(
        "encoder mask_generator.input_norm mask_generator.input_conv mask_generator.output_conv decoder",
        activation="mask_generator.output_prelu",
    )
    inside: ClassVar = _block(
        "conv_layers.0 conv_layers.1 conv_layers.2 conv_layers.3 conv_layers.4 conv_layers.5 res_out skip_out"
    )

    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        length = weights["encoder.weight"].shape[-1] if "encoder.weight" in weights else 0
        return {
            "norm": "gLN",
            "causal": False,
            "Sc": self.skips(weights),
            "padding": "odd" if length % 2 else "cut",
        }

    def dead(self, config: Architecture, last: bool) -> tuple[str, ...]:
        return ()  # its last block has no residual convolution


class Naplab(_Published):
    """https://github.com/naplab/Conv-TasNet, the authors' code"""

    name = "naplab"
    mark = "TCN.BN.weight"
    blocks = "TCN.TCN.{index}"
    settings: ClassVar = {
        "enc_dim": "N",
        "feature_dim": "B",
        "sr": "",
        "win": "",
        "layer": "X",
        "stack": "R",
        "kernel": "P",
        "num_spk": "speakers",
        "causal": "causal",
    }
    parts: ClassVar = _outside("encoder TCN.LN TCN.BN TCN.output.1 decoder", activation="TCN.output.0")
    inside: ClassVar = _block("conv1d nonlinearity1 reg1 dconv1d nonlinearity2 reg2 res_out skip_out")

    def differs(self, weights: Weights, said: Said) -> dict[str, Any]:
        causal = "TCN.LN.gain" in weights
        return {
            "norm": "cumulative" if causal else "gLN",
            "causal": causal,
            "mask": "sigmoid",
            "Sc": self.skips(weights),
            "padding": "naplab",
        }

    def _norm_leaves(self, kind: str) -> list[str]:
        return ["gain", "bias"] if kind == "cumulative" else super()._norm_leaves(kind)


PROJECTS: tuple[Project, ...] = (
    *(Kaituoxu(), JusperLee(), JusperLeeSkip(), JusperLeeDeep()),
    *(Asteroid(), Torchaudio(), Naplab()),
)
