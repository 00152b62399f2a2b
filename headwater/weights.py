"""Weights: written as safetensors, named by sha256, never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from headwater.errors import DataError, UsageError
from headwater.results.files import write_bytes

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


def write_parts(
    path: str | Path,
    upstream: str,
    config: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """One safetensors file: tensors `PART.NAME`, and in its header JSON: `upstream` (the name it is loaded by), `config`, `facts`. No counters."""
    tensors = {
        f"{part}.{name}": value.to(dtype)
        for part, state in parts.items()
        for name, value in state.items()
        if value.is_floating_point()
    }
    write_bytes(Path(path), to_bytes(tensors, {**(facts or {}), "upstream": upstream, "config": config}))


def read_parts(path: str | Path, names: Collection[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """A file of `write_parts`: its header, whose `config` is a mapping, and the tensors of each part of these names, empty where the file has none.

    Raises:
        DataError: missing, broken, or a file of something else.
    """
    facts, tensors = read_header(path), read_safetensors(path)
    if not facts:
        raise DataError(
            f"{path}: a safetensors file, but none that headwater wrote: its header says nothing. It holds {some(sorted(tensors))}"
        )
    if not isinstance(facts.get("config"), dict):
        raise DataError(f"{path}: its header has no settings (`config`)")
    other = [name for name in tensors if name.partition(".")[0] not in names]
    if other:
        raise DataError(f"{path} holds tensors that no such model has: {some(other)}")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in names}
    for name, value in tensors.items():
        part, _, inside = name.partition(".")
        parts[part][inside] = value
    return facts, parts


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as one of safetensors, whatever its name is. `DataError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: not a weight file ({error.strerror})") from None
    return start[8:] == b"{"  # the size of the header, which is JSON, stands before it


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


@contextmanager
def blaming(path: str | Path) -> Iterator[None]:
    """Wrong settings inside are the fault of a file, not of the user."""
    try:
        yield
    except UsageError as error:
        raise DataError(f"{path}: the settings in it describe no model: {error}") from None
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes beyond all memory
        raise DataError(f"{path}: the settings in it describe no model that can be built ({error})") from None


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """What the weights of a module must be like, by name. Counters are left out."""
    return {name: value.shape for name, value in module.state_dict().items() if value.is_floating_point()}


def same_names(found: Collection[str], expected: Collection[str], where: str) -> None:
    """`DataError` that names what is missing and what does not belong."""
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or more:
        parts = [f"lacks {some(missing)}"] * bool(missing) + [f"has {some(more)}, which does not belong"] * bool(more)
        raise DataError(f"{where}: by its settings, it {' and '.join(parts)}")


def fitting_state(state: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], where: str) -> dict[str, Tensor]:
    """Float32 tensors under exactly the names of `shapes`, and of these shapes, or `DataError`."""
    same_names(state, shapes, where)
    return {name: fitting(state[name], shape, f"{where}: {name}") for name, shape in shapes.items()}


def is_whole(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a plain tensor that holds a number for every place. One of strides 0 would be small in the file and fill the memory once it is copied."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return plain and value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def fitting(value: Any, shape: Sequence[int], where: str) -> Tensor:
    """A plain float32 tensor of this shape, or `DataError`."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not plain or not value.is_floating_point():
        raise DataError(f"{where} is no plain tensor of floating-point numbers")
    if value.shape != torch.Size(shape):
        raise DataError(f"{where} has the shape {tuple(value.shape)}; the settings in the file ask for {tuple(shape)}")
    if not is_whole(value):
        raise DataError(f"{where} holds fewer numbers than its shape {tuple(value.shape)} says")
    if not bool(torch.isfinite(value).all()):
        raise DataError(f"{where} holds NaN or infinity")
    return value.detach().float().contiguous()


def some(names: Sequence[str], count: int = 8) -> str:
    """The first few names."""
    more = len(names) - count
    return ", ".join(map(str, names[:count])) + (f" and {more} more" if more > 0 else "") if names else "nothing"


def left_out(names: Sequence[str]) -> str:
    """A sentence on the tensors of a file that an upstream has no use for."""
    if not names:
        return "no tensor was left out"
    return f"left out, as only pretraining, recognition or a countermeasure needs them: {some(names)}"
