"""Objectives that train the network of an upstream, and leave its weight file behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from headwater.config import FeatureSet, Section
from headwater.errors import UsageError
from headwater.nn.lengths import pad
from headwater.pretrained.features import FeatureSettings
from headwater.pretrained.upstream import Pretrained
from headwater.registry import upstreams
from headwater.settings import merge, validate
from headwater.train.objective import Objective


class NetworkSettings(Section):
    """A subclass adds `task`."""

    network: dict[str, Any] = Field(
        default_factory=dict, description="the upstream's own settings: architecture and front-end"
    )


class NetworkObjective(Objective):
    """Trains `model`, the upstream that `upstream` names. A subclass says what is asked of it: `forward`."""

    Config = NetworkSettings
    config: Any
    model: Pretrained

    def __init__(self, config: Any, features: FeatureSet | None = None) -> None:
        """`UsageError` for settings that describe no model, or none for this data."""
        super().__init__(config, features)
        card = upstreams[self.upstream]
        expert: type[Pretrained] = card.load()
        said = merge(card.config, config.network)
        settings = validate(expert.settings_type, self._for_features(said, expert), "model.network")
        if features is None and isinstance(settings, FeatureSettings) and not settings.audio:
            raise UsageError("model.network.audio is empty: say which features of the waveform the model sees")
        self.model = expert(settings, card.name)  # type: ignore[call-arg, arg-type]
        config.network = settings.model_dump(mode="json")
        self.sample_rate = self.model.sample_rate if features is None else features.sample_rate

    def _for_features(self, said: dict[str, Any], expert: type[Pretrained]) -> dict[str, Any]:
        """The settings where data is precomputed features: those are what the front-end would have made."""
        if self.features is None:
            return said
        if not issubclass(expert.settings_type, FeatureSettings):
            raise UsageError(
                f"{self.upstream} begins with waveforms, and this data is precomputed features ({self.features.kind}): give the audio with --data"
            )
        if said.get("input_dim", -1) not in (-1, self.features.dim):
            raise UsageError(
                f"model.network.input_dim is {said['input_dim']}, and the frames have {self.features.dim} dims"
            )
        return {**said, "audio": {}, "input_dim": self.features.dim}

    @property
    def stride(self) -> int:
        """Samples between the frames that enter the network."""
        frontend: Any = self.model.frontend
        return int(frontend.stride if self.features is None else self.features.stride)

    def inputs(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, T, in_dim), (B,)."""
        return self.model.frontend(list(wavs)) if self.features is None else pad(list(wavs))

    def frames(self, samples: int) -> int:
        if self.features is not None:
            raise UsageError("precomputed features have no samples")
        return self.model.frames(samples)

    def export(self, path: Path, facts: dict[str, Any]) -> None:
        more = {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}
        self.model.write(path, self.upstream, objective=more, facts=facts)
