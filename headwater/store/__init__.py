"""Frozen features, computed once."""

from headwater.store.features import FrozenFeatures, Plan

__all__ = ["FrozenFeatures", "Plan"]
