"""Small heads that several tasks share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headwater.nn.pooling import mean_pool


class MeanPool(nn.Module):
    """(B, T, D) -> (B, D): the mean over valid frames, no parameters."""

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        return mean_pool(frames, lengths)


class PooledLinear(nn.Module):
    """[Linear to `projector` dims] -> mean over valid frames -> Linear to classes, without activations (SUPERB's SID head has a projector of 256).

    (B, T, D) -> (B, classes).
    """

    def __init__(self, in_dim: int, classes: int, projector: int = 0) -> None:
        super().__init__()
        self.projector = nn.Linear(in_dim, projector) if projector else nn.Identity()
        self.classifier = nn.Linear(projector or in_dim, classes)

    def embed(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) -> (B, projector or D): what the classifier sees."""
        # The projector is affine, so it commutes with the mean: one row an utterance instead of one a frame.
        pooled: Tensor = self.projector(mean_pool(frames, lengths))
        return pooled

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        logits: Tensor = self.classifier(self.embed(frames, lengths))
        return logits


class FrameClassifier(nn.Module):
    """A linear layer, or one with `hidden` ReLU units before it, on every frame with `context` neighbours in all (odd; the first and last frames repeat).

    (B, T, D) -> (B, T, classes).
    """

    def __init__(self, in_dim: int, classes: int, hidden: int = 0, context: int = 1) -> None:
        super().__init__()
        self.context = context
        width = in_dim * context
        self.layers = (
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))
            if hidden
            else nn.Linear(width, classes)
        )

    def forward(self, frames: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        logits: Tensor = self.layers(splice(frames, lengths, self.context))
        return logits


def splice(frames: Tensor, lengths: Tensor, context: int) -> Tensor:
    """(B, T, D) -> (B, T, context x D): each frame with its neighbours, earliest first; beyond an utterance its own first or last frame stands."""
    if context == 1:
        return frames
    reach = context // 2
    position = torch.arange(-reach, frames.shape[1] + reach, device=frames.device).clamp(min=0)
    own = torch.minimum(position[None, :], (lengths - 1)[:, None])
    # One gather pads each utterance with its own edges; the neighbours are then a view.
    padded = frames[torch.arange(len(frames), device=frames.device)[:, None], own]
    return padded.unfold(1, context, 1).transpose(2, 3).reshape(*frames.shape[:2], -1)
