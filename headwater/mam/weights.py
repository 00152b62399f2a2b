"""The weights of a masked acoustic model, and our own file of them: safetensors, with the settings in its header."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headwater.config import validate
from headwater.errors import DataError, UsageError
from headwater.mam.settings import Settings, build_head, build_transformer, input_dim_of
from headwater.results.files import write_bytes
from headwater.weights import read_header, read_safetensors

OURS = "headwater"  # a generation of files, and the key in their header


class Weights(NamedTuple):
    """What a weight file holds.

    generation: which layout the file has. settings: in full. transformer, head: float32 state dicts for `build_transformer` and `build_head`; a file need not
    have the pretraining head.
    """

    generation: str
    settings: Settings
    transformer: dict[str, Tensor]
    head: dict[str, Tensor] | None


def read_model(path: str | Path) -> Weights:
    """A file of `write_model`.

    Raises:
        DataError: missing, broken, of something else, or with weights that do not fit its settings.
    """
    facts, tensors = read_header(path), read_safetensors(path)
    if not facts:
        raise DataError(
            f"{path}: a safetensors file, but none that headwater wrote: its header says nothing. It holds {some(sorted(tensors))}"
        )
    if not isinstance(facts.get("config"), dict):
        raise DataError(f"{path}: its header has no settings (`config`)")
    other = [name for name in tensors if not name.startswith(("transformer.", "head."))]
    if other:
        raise DataError(f"{path} holds tensors that no masked acoustic model has: {some(other)}")
    with blaming(path):
        settings = validate(Settings, facts["config"])
        transformer = _fitting(tensors, "transformer.", transformer_shapes(settings), path)
        head = any(name.startswith("head.") for name in tensors)
        shapes = head_shapes(settings, tensors.get("head.output.bias"))
        return Weights(OURS, settings, transformer, _fitting(tensors, "head.", shapes, path) if head else None)


def write_model(
    path: str | Path,
    upstream: str,
    settings: Settings,
    transformer: Mapping[str, Tensor],
    head: Mapping[str, Tensor] | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """One safetensors file: tensors `transformer.*` and `head.*`, and in the header JSON with `upstream` (the name it is loaded by), `config` and `facts`."""
    from safetensors.torch import save

    tensors = {f"transformer.{name}": value for name, value in transformer.items()}
    tensors |= {f"head.{name}": value for name, value in (head or {}).items()}
    header = {**(facts or {}), "upstream": upstream, "config": settings.model_dump(mode="json")}
    content = save(
        {name: value.detach().cpu().to(dtype).contiguous().clone() for name, value in tensors.items()},
        metadata={OURS: json.dumps(header, ensure_ascii=False, allow_nan=False)},
    )
    write_bytes(Path(path), content)


def _fitting(
    tensors: Mapping[str, Tensor], prefix: str, shapes: Mapping[str, torch.Size], path: str | Path
) -> dict[str, Tensor]:
    """The tensors under `prefix`, which must be exactly those of `shapes`."""
    names = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    same_names(names, set(shapes), f"{path}, {prefix[:-1]}")
    return {name: fitting(tensors[prefix + name], shape, f"{path}: {prefix}{name}") for name, shape in shapes.items()}


@contextmanager
def blaming(path: str | Path) -> Iterator[None]:
    """Wrong settings inside are the fault of a file, not of the user."""
    try:
        yield
    except UsageError as error:
        raise DataError(f"{path}: the settings in it describe no model: {error}") from None
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes beyond all memory
        raise DataError(f"{path}: the settings in it describe no model that can be built ({error})") from None


def transformer_shapes(settings: Settings) -> dict[str, torch.Size]:
    """The tensors of `build_transformer`. `UsageError` for settings that describe none."""
    dim = input_dim_of(settings)
    with torch.device("meta"):
        return _shapes(build_transformer(settings, dim))


def head_shapes(settings: Settings, bias: Any) -> dict[str, torch.Size]:
    """The tensors of `build_head`, where its answer is as wide as this output bias."""
    width = bias.numel() if isinstance(bias, Tensor) else 0
    with torch.device("meta"):
        return _shapes(build_head(settings, max(1, width // settings.transformer.downsample_rate)))


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def same_names(found: Collection[str], expected: Collection[str], where: str) -> None:
    """`DataError` that names what is missing and what does not belong."""
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or more:
        parts = [f"lacks {some(missing)}"] * bool(missing) + [f"has {some(more)}, which does not belong"] * bool(more)
        raise DataError(f"{where}: by its settings, it {' and '.join(parts)}")


def fitting(value: Any, shape: Sequence[int], where: str) -> Tensor:
    """A plain float32 tensor of this shape, or `DataError`."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not plain or not value.is_floating_point():
        raise DataError(f"{where} is no plain tensor of floating-point numbers")
    if value.shape != torch.Size(shape):
        raise DataError(f"{where} has the shape {tuple(value.shape)}; the settings in the file ask for {tuple(shape)}")
    # A tensor of strides 0 would be small in the file and fill the memory.
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise DataError(f"{where} holds fewer numbers than its shape {tuple(value.shape)} says")
    if not bool(torch.isfinite(value).all()):
        raise DataError(f"{where} holds NaN or infinity")
    return value.detach().float().contiguous()


def some(names: Sequence[str], count: int = 8) -> str:
    """The first few names."""
    more = len(names) - count
    return ", ".join(map(str, names[:count])) + (f" and {more} more" if more > 0 else "") if names else "nothing"
