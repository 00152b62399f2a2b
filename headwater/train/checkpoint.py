"""Exact resume: one file that is whole or not there, and the best weights beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwater.errors import HeadwaterError
from headwater.results.files import write_bytes
from headwater.weights import read_safetensors, to_bytes


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators that training on `device` draws from (dropout, SpecAugment)."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `rng_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


class Checkpoint:
    """`FOLDER/last.pt`, and `FOLDER/best-STEP.safetensors` that it names.

    The best weights are written first and older ones removed last, so that whatever moment a process dies at, `last.pt` names a file that is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.pt"

    def write_best(self, step: int, state: dict[str, Tensor]) -> None:
        write_bytes(self._best(step), to_bytes(state))

    def read_best(self, step: int) -> dict[str, Tensor]:
        return read_safetensors(self._best(step))

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def save(self, state: dict[str, Any], best_step: int | None) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.last, buffer.getvalue())
        for file in self.folder.glob("best-*.safetensors"):
            if best_step is None or file != self._best(best_step):
                file.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """What `save` was given, or None where nothing was saved yet."""
        if not self.last.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:
            raise HeadwaterError(
                f"{self.last}: the checkpoint cannot be read ({error}); start over with --fresh"
            ) from None
        return state
