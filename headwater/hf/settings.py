"""What an upstream on transformers is made of."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from headwater.config import Section


class EncoderSettings(Section):
    """The settings that a weight file of ours has in its header."""

    architecture: dict[str, Any] = Field(description="transformers' config.json; `model_type` says which class")
    normalize: float | None = Field(
        None,
        gt=0,
        description="each waveform to zero mean and unit variance, with this epsilon beside the variance; null: as it is",
    )
    sample_rate: int = Field(16000, ge=1)


class Choices(Section):
    """What a user may set (`-g FILE`, `upstream.config`)."""

    source: str | None = Field(None, description="a directory, or ORG/MODEL on huggingface.co, @REVISION behind it")
    normalize: float | None = Field(None, ge=0, description="where a directory does not say it: 1e-7 (yes), 0 (no)")
    random_weights: int | None = Field(
        None, ge=0, lt=2**63, description="a seed: the same architecture with fresh weights"
    )
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="of random weights; a weight file brings its own"
    )
    sample_rate: int = Field(16000, ge=1)
