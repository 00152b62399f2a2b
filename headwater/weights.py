"""Weights: written as safetensors, named by sha256, never unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from headwater.errors import DataError


def state_sha256(module: nn.Module) -> str | None:
    """sha256 over names, dtypes, shapes and values of a module's state, in the order of names; None for a module without any."""
    state = module.state_dict()
    if not state:
        return None
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A state dict as a safetensors file."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. `DataError` where it is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({error})") from None
