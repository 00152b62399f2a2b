"""Features of a small upstream in a store, for tests: twelve utterances, their shards, and what was read and said on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from headwater.audio.frontends import build_frontend
from headwater.nn.upstream import Upstream
from headwater.store import Bank, FrozenFeatures, Store, Workers
from headwater.store.digests import content_key

DIMS = (6, 4, 6)


@dataclass(frozen=True)
class Key:
    id: str


class Three(Upstream):
    """Three states of log mel bins."""

    def __init__(self) -> None:
        super().__init__(
            build_frontend({"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 20}}}), DIMS, ("a", "b", "c")
        )
        self.parts = nn.ModuleList(nn.Linear(20, dim) for dim in DIMS)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return tuple(part(x) for part in self.parts), lengths


KEYS = [Key(f"u{number}") for number in range(12)]
WAVS = {
    key.id: 0.1 * torch.randn(3200 + 911 * n, generator=torch.Generator().manual_seed(n)) for n, key in enumerate(KEYS)
}
CONTENT = {key.id: content_key(key.id) for key in KEYS}
LAYERS = (0, 2)
SMALL = 6_000  # bytes a shard: several of them


def three() -> Upstream:
    torch.manual_seed(0)
    return Three().eval()


def bank(dtype: str = "float32", **other: str) -> Bank:
    return Bank({"dtype": dtype, "layer_dims": list(DIMS), "upstream": "three", **other})


class Frozen(FrozenFeatures[Key]):
    """With what was read, and what was said."""

    def __init__(
        self, upstream: Upstream, root: Path | None, layers: tuple[int, ...] = LAYERS, **settings: object
    ) -> None:
        self.reads: list[str] = []
        self.said: list[str] = []
        budget = settings.pop("budget", None)
        where = None if root is None else Store(root, budget, self.said.append, SMALL)  # type: ignore[arg-type]
        super().__init__(upstream, layers, self._noted, store=where, say=self.said.append, **settings)  # type: ignore[arg-type]

    def _noted(self, key: Key) -> Tensor:
        self.reads.append(key.id)
        return WAVS[key.id]

    def filled_with(self, keys: list[Key] = KEYS, workers: Workers | None = None, of: Bank | None = None) -> Frozen:
        self.fill(
            keys,
            bank=of or bank(self.dtype),
            content=CONTENT,
            seconds=lambda key: len(WAVS[key.id]) / 16000,
            workers=workers,
        )
        return self


def answers(features: FrozenFeatures[Key], keys: list[Key] = KEYS) -> dict[str, list[Tensor]]:
    found = {}
    for key, (states, lengths) in zip(keys, features.batches([[key] for key in keys]), strict=True):
        assert all(len(state[0]) == int(lengths[0]) for state in states)
        found[key.id] = [state[0].clone() for state in states]
    return found


def same(a: dict[str, list[Tensor]], b: dict[str, list[Tensor]]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))
