"""The quantizer of VQ-APC and NPC, as S3PRL's settings say it."""

from __future__ import annotations

from pydantic import Field, model_validator

from headwater.config import Section
from headwater.nn.quantizers import LinearCodebooks


class QuantizerSettings(Section):
    """One codebook a group of channels; `code_dim` are the channels of each, `codebook_size` its entries."""

    codebook_size: list[int] = Field([512], min_length=1)
    code_dim: list[int] = Field([512], min_length=1)
    gumbel_temperature: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _pairs(self) -> QuantizerSettings:
        if len(self.codebook_size) != len(self.code_dim):
            raise ValueError(
                f"{len(self.codebook_size)} codebook_size, {len(self.code_dim)} code_dim: one each a group"
            )
        if min(*self.codebook_size, *self.code_dim) < 1:
            raise ValueError("codebook_size and code_dim are positive")
        return self

    def fits(self, hidden_size: int) -> None:
        """`ValueError` where the groups do not add up."""
        if sum(self.code_dim) != hidden_size:
            raise ValueError(f"vq.code_dim {self.code_dim} must add up to hidden_size {hidden_size}")

    def build(self) -> LinearCodebooks:
        return LinearCodebooks(self.codebook_size, self.code_dim, self.gumbel_temperature)
