"""Frozen features, computed once."""

from headwater.store.features import FrozenFeatures, Workers
from headwater.store.keys import Bank, bank_of
from headwater.store.plan import Plan
from headwater.store.store import Store

__all__ = ["Bank", "FrozenFeatures", "Plan", "Store", "Workers", "bank_of"]
