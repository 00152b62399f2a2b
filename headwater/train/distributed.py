"""One process, or several under torchrun: the few collectives the loop needs."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headwater.errors import UsageError

# One rank may extract features for hours while the others wait; a rank that died is torchrun's to notice.
PATIENCE = timedelta(days=7)


class World:
    """rank, ranks, and collectives that do nothing where there is one process."""

    def __init__(self, device: torch.device) -> None:
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._inside: dist.ProcessGroup | None = None
        if self.ranks > 1 and not dist.is_initialized():
            try:
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
            except (RuntimeError, ValueError) as error:
                raise UsageError(
                    f"WORLD_SIZE={self.ranks} is set, yet the other processes cannot be reached ({error}); start with torchrun"
                ) from None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, on every rank."""
        if self.ranks > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def total(self, value: Tensor, weight: float = 1.0) -> Tensor:
        """`sum` of weighted values through which gradients flow: those of all ranks, to all ranks."""
        if self.ranks == 1:
            return value * weight
        if self._inside is None:  # the gradients' own collectives must not be mistaken for these
            self._inside = dist.new_group()
        total: Tensor = _Total.apply(value * weight, self._inside)  # type: ignore[no-untyped-call]
        return total

    def share(self, module: nn.Module) -> None:
        """Give every rank what no gradient trains as the first one has it: the running statistics of batch norm are of the rank's own batches."""
        if self.ranks == 1:
            return
        for tensor in (*module.buffers(), *(one for one in module.parameters() if not one.requires_grad)):
            dist.broadcast(tensor.detach(), 0)

    def gather(self, value: Any) -> list[Any]:
        """Plain data of every rank, on every rank."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """True on every rank where it is true on one."""
        return flag if self.ranks == 1 else any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until every rank is here: what the first rank wrote before is there for all."""
        if self.ranks > 1:
            dist.barrier()

    def close(self) -> None:
        if self.ranks > 1 and dist.is_initialized():
            dist.destroy_process_group()


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        value = value.clone()
        dist.all_reduce(value, group=group)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


def local_device(name: str | None) -> torch.device:
    """The device asked for; by default a GPU where there is one (under torchrun, the local rank's)."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {name}: no CUDA device can be used here; --device cpu works everywhere")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device
