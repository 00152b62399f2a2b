"""Weights: written as safetensors, named by sha256, never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwater.errors import DataError

HEADER = "headwater"  # the key in a safetensors header under which our own files say what they are


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


def to_bytes(state: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> bytes:
    """A state dict as a safetensors file, with what `read_header` is to find in it."""
    from safetensors.torch import save

    said = {HEADER: json.dumps(header, ensure_ascii=False, allow_nan=False)} if header else None
    return save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, metadata=said)


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


def read_header(path: str | Path) -> dict[str, Any]:
    """What a weight file of ours says of itself: `upstream`, the name it is loaded by, and more; empty where a file says nothing.

    Raises DataError where it is missing or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            said = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({error})") from None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise DataError(f"{path}: {HEADER!r} in its header is not a JSON object")
    return said
