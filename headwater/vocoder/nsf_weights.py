"""NII's weight files of the neural source-filter family, read and written: a table of names, and constants that are checked instead of kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwater.errors import DataError
from headwater.pickles import read_pickle
from headwater.vocoder.nsf import TRAITS, Member, NsfSettings, SourceFilter
from headwater.weights import fitting_state, is_safetensors, read_safetensors, some

_EPOCH = "state_dict"  # what a file of one epoch has beside its optimiser, logs and scheduler

# Ours -> theirs; what stands between dots and is a number stays.
_RULES: tuple[tuple[str, str], ...] = (
    (r"^source\.merge\.", "m_source.l_linear."),
    (r"^harmonic_blocks\.", "m_filter.l_har_blocks."),
    (r"^noise_block\.", "m_filter.l_noi_blocks.0."),
    (r"\.expand\.", ".l_ff_1."),
    (r"\.convs\.", ".l_convs."),
    (r"\.squeeze\.", ".l_ff_2."),
    (r"\.mix\.(weight|bias)$", r".l_ff_3.\1"),
    (r"^mix\.low_voiced$", "m_filter.l_fir_lp_v.weight"),
    (r"^mix\.low_unvoiced$", "m_filter.l_fir_lp_u.weight"),
    (r"^mix\.high_voiced$", "m_filter.l_fir_hp_v.weight"),
    (r"^mix\.high_unvoiced$", "m_filter.l_fir_hp_u.weight"),
    (r"^conditioner\.blstm\.", "m_cond.l_blstm.l_blstm."),
    (r"^conditioner\.conv\.", "m_cond.l_conv1d."),
)


@dataclass(frozen=True)
class Average:
    """A moving average that their files keep as weights."""

    channels: int
    window: int

    @property
    def weight(self) -> Tensor:
        return torch.full((self.channels, 1, self.window), 1 / self.window)


def read_nsf(path: str | Path) -> SourceFilter:
    """The model of a file of NII's: safetensors, or a pickle of a state dict or of one training epoch. The names in it say which member it is.

    Every tensor must belong to that member, have its shape and be finite; those that are constants must have their values.

    Raises:
        DataError: missing, broken, or anything else; nothing in a pickle is run.
    """
    state = _state(path)
    model = SourceFilter(NsfSettings(member=member_of(state, path)))
    model.load_state_dict(from_nii(state, model, str(path)))
    return model.eval()


def member_of(state: Mapping[str, Any], where: str | Path) -> Member:
    """Which member these names belong to. `DataError` for the names of something else."""
    if "m_condition.l_conv1d.weight" in state:
        return "hn-nsf"
    if "m_cond.l_blstm.l_blstm.weight_ih_l0" in state:
        return "hn-sinc-nsf-9" if "m_source.l_linear.weight" in state else "cyc-noise-nsf-4"
    raise DataError(
        f"{where}: these are no weights of {', '.join(TRAITS)}, whose condition modules have a BLSTM; the file holds {some(sorted(state))}"
    )


def from_nii(state: Mapping[str, Any], model: SourceFilter, where: str) -> dict[str, Tensor]:
    """Our state dict of theirs. `DataError` for whatever is missing, more, misshapen, not finite, or no constant where it should be."""
    ours, averages = model.state_dict(), averages_of(model.settings)
    shapes = {their_name(name, model.settings.member): value.shape for name, value in ours.items()}
    theirs = fitting_state(state, {**shapes, **{name: one.weight.shape for name, one in averages.items()}}, where)
    for name, average in averages.items():
        if not torch.allclose(theirs[name], average.weight, rtol=1e-5, atol=0):
            raise DataError(f"{where}: {name} is no moving average of {average.window} values, which it must be")
    return {name: theirs[their_name(name, model.settings.member)] for name in ours}


def to_nii(model: SourceFilter) -> dict[str, Tensor]:
    """Their state dict of a model, constants included."""
    state = {their_name(name, model.settings.member): value for name, value in model.state_dict().items()}
    return {**state, **{name: one.weight for name, one in averages_of(model.settings).items()}}


def their_name(name: str, member: Member) -> str:
    """NII's name of one of our tensors."""
    for ours, theirs in _RULES:
        name = re.sub(ours, theirs, name)
    return name.replace("m_cond.", "m_condition.") if member == "hn-nsf" else name


def averages_of(settings: NsfSettings) -> dict[str, Average]:
    """The moving averages in their files, by their names."""
    traits = TRAITS[settings.member]
    out = settings.channels + traits.sinc - traits.f0_in_context
    found = {f"m_cond.l_upsamp.l_ave{one}.weight": Average(out, settings.hop) for one in (1, 2)}
    if traits.f0_in_context:
        found |= {f"m_cond.l_upsamp_f0_hi.l_ave{one}.weight": Average(1, settings.hop) for one in (1, 2)}
    if traits.sinc:
        found["m_cond.l_cut_f_smooth.weight"] = Average(1, 4 * settings.hop)
    return {their_name(name, settings.member): average for name, average in found.items()}


def _state(path: str | Path) -> Mapping[str, Any]:
    content = read_safetensors(path) if is_safetensors(path) else read_pickle(path)
    inner = content.get(_EPOCH, content) if isinstance(content, dict) else content
    if not isinstance(inner, dict) or not all(isinstance(name, str) for name in inner):
        raise DataError(f"{path} holds no state dict, alone or as {_EPOCH!r} of a training epoch")
    return inner
