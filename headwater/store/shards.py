"""One shard: an immutable safetensors file with the features of some utterances, that says all about itself.

`keys` (n, 16) uint8, `offsets` (n + 1) int64, `crc` (n, layers) int64: the CRC-32 of each utterance's rows in each layer; `layer.I` (rows, D), utterance i
having the rows offsets[i] to offsets[i + 1]. In the header: the bank, the form (frames, or one mean an utterance) and the ids. Nothing in it depends on time,
machine or the order of work.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headwater.errors import DataError
from headwater.store.keys import Bank
from headwater.weights import HEADER, to_bytes

Form = Literal["frames", "mean"]
FORMS: tuple[Form, ...] = ("frames", "mean")
KEY_BYTES = 16
SUFFIX = ".safetensors"
Row = tuple[Tensor, ...]  # an utterance's states, (T, D) each


class Broken(DataError):
    """A shard that cannot be used: not whole, not of this bank, or not what was written."""


@dataclass(frozen=True)
class Shard:
    """An open shard; its tensors are views of the mapped file. layers: number -> (rows, D)."""

    path: Path
    form: Form
    ids: Sequence[str]
    keys: Sequence[bytes]
    offsets: Sequence[int]
    crc: np.ndarray
    layers: dict[int, Tensor]

    def row(self, layer: int, position: int) -> Tensor:
        """The states (T, D) of one utterance, without a copy."""
        return self.layers[layer][self.offsets[position] : self.offsets[position + 1]]

    @cached_property
    def columns(self) -> dict[int, int]:
        """Layer -> its column in `crc`."""
        return {layer: column for column, layer in enumerate(sorted(self.layers))}

    def faults(self, positions: Sequence[int] | None = None, layers: Sequence[int] | None = None) -> list[int]:
        """Positions of utterances whose bytes are not those that were written."""
        chosen = range(len(self.keys)) if positions is None else positions
        wanted = sorted(self.layers) if layers is None else layers
        return [
            position
            for position in chosen
            if any(checksum(self.row(layer, position)) != self.crc[position, self.columns[layer]] for layer in wanted)
        ]


def checksum(state: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    return zlib.crc32(state.contiguous().numpy().data.cast("B")) if state.numel() else 0


def shard_name(form: Form, keys: Sequence[bytes], layers: Sequence[int]) -> str:
    """What a shard of these utterances and layers is called, whoever writes it."""
    digest = hashlib.sha256(json.dumps(list(layers)).encode() + b"".join(keys))
    return f"{form}-{digest.hexdigest()[:32]}{SUFFIX}"


def shard_bytes(
    bank: Bank, form: Form, ids: Sequence[str], keys: Sequence[bytes], layers: Sequence[int], rows: Sequence[Row]
) -> bytes:
    """The content of a shard. rows: the states of `layers` for each utterance, in the bank's dtype, on the CPU."""
    lengths = [len(row[0]) for row in rows]
    state = {
        "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), KEY_BYTES),
        "offsets": torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64),
        "crc": torch.tensor([[checksum(layer) for layer in row] for row in rows], dtype=torch.int64),
        **{f"layer.{layer}": torch.cat([row[column] for row in rows]) for column, layer in enumerate(layers)},
    }
    # A file's name may hold what is no Unicode.
    names = [name.encode("utf-8", "replace").decode() for name in ids]
    return to_bytes(state, {"bank": bank.fingerprint, "form": form, "ids": names})


def open_shard(path: Path, bank: Bank | None = None) -> Shard:
    """Map a shard and check that it hangs together; its values are checked by `Shard.faults`.

    bank: the one that it must be of; None takes any. Raises `Broken`, or `FileNotFoundError` where somebody removed it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError, RuntimeError) as error:
        raise Broken(f"{path}: not a whole shard ({error})") from None
    try:
        return _checked(path, bank, header, tensors)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Broken(f"{path}: not a shard of this version ({error})") from None


def _checked(path: Path, bank: Bank | None, header: Any, tensors: dict[str, Tensor]) -> Shard:
    keys, offsets, crc = tensors.pop("keys"), tensors.pop("offsets"), tensors.pop("crc")
    layers = {int(name.removeprefix("layer.")): tensor for name, tensor in tensors.items()}
    rows = {len(tensor) for tensor in layers.values()}
    bounds = offsets.tolist()
    good = (
        header["form"] in FORMS
        and header["bank"] == (bank.fingerprint if bank is not None else path.parent.name)
        and keys.dtype == torch.uint8
        and keys.shape == (len(keys), KEY_BYTES)
        and offsets.dtype == torch.int64
        and offsets.shape == (len(keys) + 1,)
        and crc.dtype == torch.int64
        and crc.shape == (len(keys), len(layers))
        and len(header["ids"]) == len(keys)
        and all(isinstance(name, str) for name in header["ids"])
        and rows == {bounds[-1]}
        and bounds[0] == 0
        and bool((offsets.diff() > 0).all())
        and all(tensor.dim() == 2 and tensor.dtype in (torch.float32, torch.float16) for tensor in layers.values())
        and (header["form"] == "frames" or bounds[-1] == len(keys))
        and (
            bank is None
            or all(
                0 <= layer < len(bank.layer_dims)
                and tensor.shape[1] == bank.layer_dims[layer]
                and tensor.dtype == bank.dtype
                for layer, tensor in layers.items()
            )
        )
    )
    if not good:
        raise ValueError("its parts do not fit each other or this bank")
    flat = keys.numpy().tobytes()
    names = [flat[start : start + KEY_BYTES] for start in range(0, len(flat), KEY_BYTES)]
    if path.name != shard_name(header["form"], names, sorted(layers)):
        raise ValueError("its name is not that of these utterances and layers")
    return Shard(path, header["form"], header["ids"], names, bounds, crc.numpy(), layers)
