"""Plain acoustic features: the front-end is the whole upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.audio.frontends import build_frontend
from headwater.nn.upstream import Upstream, refuse_ckpt
from headwater.registry import Card
from headwater.settings import merge

FORMS = ("kaldi", "input", "spectrogram", "nii", "waveform")


class Baseline(Upstream):
    """One hidden state: what the front-end of `config` gives."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        frontend = build_frontend(config)
        super().__init__(frontend, (frontend.out_dim,), ("features",))

    @classmethod
    def from_card(cls, card: Card, ckpt: str | None, config: Mapping[str, Any]) -> Upstream:
        """Settings of the card's form change single values of it; settings of another form replace it (S3PRL's `baseline_local`)."""
        refuse_ckpt(card.name, ckpt)
        replaces = any(form in config and form not in card.config for form in FORMS)
        return cls(config if replaces else merge(card.config, config))
