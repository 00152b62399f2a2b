"""Precomputed features as a representation: the folder they come from says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.config import FeatureSet
from headwater.nn.upstream import NoFrontend, Upstream, refuse_ckpt
from headwater.registry import Card
from headwater.settings import merge, validate


class PrecomputedFeatures(Upstream):
    """One hidden state: the features (T, dim) it is given, whatever their size."""

    def __init__(self, about: FeatureSet) -> None:
        frontend = NoFrontend(
            "features", about.dim, sample_rate=about.sample_rate, stride=about.stride, offset=about.offset
        )
        super().__init__(frontend, (about.dim,), ("features",))

    @classmethod
    def from_card(cls, card: Card, ckpt: str | None, config: Mapping[str, Any]) -> Upstream:
        """What features are given without a folder that says so (from Python) is in the settings."""
        refuse_ckpt(card.name, ckpt)
        return cls(validate(FeatureSet, merge(card.config, config), "upstream.config"))

    def take_features(self, given: FeatureSet | None) -> None:
        if given is not None:
            self.in_dim, self.layer_dims = given.dim, (given.dim,)
        super().take_features(given)
