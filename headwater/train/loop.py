"""The one training loop: any step order, precision and number of processes, exact resume, dev chooses."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headwater.config import TrainingConfig
from headwater.data.batching import plan_epoch, windows
from headwater.errors import HeadwaterError
from headwater.progress import bar
from headwater.results.events import Events
from headwater.store.features import enough_memory
from headwater.train.checkpoint import Checkpoint, rng_state, set_rng_state
from headwater.train.distributed import World
from headwater.train.optim import build_optimizer, build_scheduler
from headwater.train.work import Portion, Work

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The loss that is scaled is a sum over frames, so its scale starts at 1 and may rightly fall far below; one that falls so far will never do.
SMALLEST_SCALE = 2.0**-24
STOP_STEPS = 10  # several ranks agree on stopping this often at least


class Interrupted(HeadwaterError):
    """Ctrl-C or SIGTERM; the state is saved."""


@dataclass
class Best:
    """What dev has chosen so far. diverged: the step at which the gradient was not finite (0: none)."""

    best_step: int | None = None
    best: float | None = None
    since_best: int = 0
    done: bool = False
    diverged: int = 0


@dataclass
class Standing(Best):
    """Where training stands: all of it is in the checkpoint.

    parts: of a work of several parts, where each stands; the best step of the whole is then the last at which any of them was best, and numbers in `history`
    are lists.
    """

    step: int = 0
    epoch: int = 0
    window: int = 0
    seconds: float = 0.0
    skipped: int = 0  # steps that fp16's loss scaling left out
    history: list[dict[str, Any]] = field(default_factory=list)
    parts: list[Best] = field(default_factory=list)

    @classmethod
    def restored(cls, content: dict[str, Any]) -> Standing:
        """From what `asdict` gave."""
        return cls(**{**content, "parts": [Best(**part) for part in content["parts"]]})


def autocast(config: TrainingConfig, device: torch.device) -> AbstractContextManager[Any]:
    kind = AUTOCAST.get(config.runner.precision)
    return torch.autocast(device.type, dtype=kind) if kind is not None else nullcontext()


class Trainer:
    """Trains the module of some work, evaluates it now and then, and leaves the best weights in it."""

    def __init__(
        self,
        work: Work[Any],
        config: TrainingConfig,
        *,
        world: World,
        device: torch.device,
        checkpoint: Checkpoint,
        events: Any,
    ) -> None:
        self.work, self.config = work, config
        self.world, self.device, self.checkpoint, self.events = world, device, checkpoint, events
        self.total_steps = self._total_steps()
        self.in_epoch = 0  # windows of the present epoch
        self.several = len(work.parts) > 1
        self.optimizer = build_optimizer(work.parameter_groups(), config.optimizer, fused=self.several)
        self.scheduler = build_scheduler(self.optimizer, config.scheduler, self.total_steps, config.runner.epochs)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=config.runner.precision == "fp16")
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.standing = Standing(parts=[Best() for _ in work.parts] if self.several else [])
        # Sums (of each part) and count of the loss since the last log, and the first step whose gradient was not finite (0: none): read at the next log, never
        # at every step.
        self.running = torch.zeros(len(work.parts) + 1, dtype=torch.float64, device=device)
        self.broken = torch.zeros(len(work.parts), dtype=torch.int64, device=device)
        self.module: nn.Module = work.module
        if world.ranks > 1:
            self.module = nn.parallel.DistributedDataParallel(
                work.module,
                device_ids=[device.index] if device.type == "cuda" else None,
                find_unused_parameters=work.may_leave_parameters_unused,
            )

    def _total_steps(self) -> int:
        runner = self.config.runner
        if runner.epochs is None:
            return runner.total_steps
        return sum(len(self._windows(epoch)) for epoch in range(runner.epochs))

    def _windows(self, epoch: int) -> list[list[np.ndarray]]:
        batch = self.config.batch
        plan = plan_epoch(
            self.work.durations, size=batch.size, max_seconds=batch.seconds, seed=self.config.seed, epoch=epoch
        )
        return windows(plan, self.config.runner.gradient_accumulate_steps)

    def fit(self) -> Standing:
        """Train to the end. Raises Interrupted after Ctrl-C with all saved, HeadwaterError for a diverged run or no memory."""
        self._resume()
        state, runner = self.standing, self.config.runner
        started = time.monotonic() - state.seconds
        self.work.module.train()
        with (
            bar(
                total=self.total_steps, what="train", unit="step", initial=state.step, shown=self.world.first
            ) as counter,
            stop_signals() as stop,
        ):
            stream = self._stream()
            while state.step < self.total_steps and not state.done:
                with enough_memory(
                    f"at step {state.step + 1}; lower batch.seconds or batch.size (raise runner.gradient_accumulate_steps to keep the effective batch), "
                    "or set runner.precision=bf16"
                ):
                    self._step(next(stream))
                counter.update()
                last = state.step == self.total_steps
                if state.step % runner.log_step == 0 or last:
                    counter.set_postfix(self._log(), refresh=False)
                due = last or self._due()
                if due:
                    self._evaluate()
                state.seconds = time.monotonic() - started
                asked = self.world.ranks == 1 or last or state.step % min(STOP_STEPS, runner.log_step) == 0
                stopping = asked and self.world.any(stop.is_set())
                if state.step % runner.save_step == 0 or due or stopping or state.done:
                    self._save()
                if stopping:
                    raise Interrupted(
                        f"stopped at step {state.step} of {self.total_steps}, all saved; the same command goes on from there"
                    )
        self.world.barrier()
        if state.best_step is not None:
            self.work.module.load_state_dict(self.checkpoint.read_best(state.best_step))
        return state

    def _due(self) -> bool:
        """Whether dev is to be scored after this step."""
        state, runner = self.standing, self.config.runner
        if runner.eval_epochs is None:
            return state.step % runner.eval_step == 0
        return state.window == self.in_epoch and (state.epoch + 1) % runner.eval_epochs == 0

    def _stream(self) -> Iterator[list[tuple[Any, float]]]:
        """Windows of this rank's batches, from the saved position on; the weight is 0 where a rank's share is empty and it only keeps step."""
        state, world = self.standing, self.world
        while True:
            number, todo = 0, []
            for window in self._windows(state.epoch):
                portions = [
                    Portion(state.epoch, number + place, batch, world.rank, world.ranks)
                    for place, batch in enumerate(window)
                ]
                todo.append(portions)
                number += len(window)
            self.in_epoch = len(todo)
            todo = todo[state.window :]
            ready = self.work.ready([portion for portions in todo for portion in portions])
            for portions in todo:
                state.window += 1
                yield [(next(ready), portion.weight) for portion in portions]
            state.epoch, state.window = state.epoch + 1, 0

    def _step(self, window: list[tuple[Any, float]]) -> None:
        """One optimiser step: sums are back-propagated and divided once by the count over micro-batches and ranks."""
        counts = torch.zeros((), dtype=torch.float64, device=self.device)
        for position, (ready, weight) in enumerate(window):
            final = position == len(window) - 1
            hold = nullcontext() if final or self.world.ranks == 1 else self.module.no_sync()  # type: ignore[operator]
            with hold:
                with autocast(self.config, self.device):
                    total, count = self.work.loss(self.module, ready)
                counts += count * weight
                self.running += torch.cat([total.detach().double().view(-1), count.double().view(1)]) * weight
                # DistributedDataParallel averages over ranks; times their number it is the sum again. Parts have no parameter in common, so neither do their
                # gradients.
                self.scaler.scale(total.sum() * (weight * self.world.ranks)).backward()
        counts = self.world.sum(counts)
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        torch._foreach_div_(gradients, counts.clamp(min=1).to(gradients[0].dtype))
        norm = self.work.clip(self.parameters, self.config.runner.gradient_clipping)
        if self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.standing.skipped += self.scaler.get_scale() < scale
        else:
            number = self.standing.step + 1
            self.broken = torch.where((self.broken == 0) & ~torch.isfinite(norm), number, self.broken)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()
        self.standing.step += 1

    def _log(self) -> dict[str, Any]:
        self._check()
        *totals, count = self.world.sum(self.running).tolist()
        self.running.zero_()
        losses = [total / max(count, 1.0) for total in totals]
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite:
            raise self._diverged("the loss", f"at or before step {self.standing.step}")
        rates = [group["lr"] for group in self.optimizer.param_groups]
        skipped = {"skipped": self.standing.skipped} if self.standing.skipped else {}
        told = {"loss": [loss if math.isfinite(loss) else None for loss in losses], "lr": rates}
        if not self.several:
            told = {name: values[0] for name, values in told.items()}
        self.standing.history.append({"step": self.standing.step, **told, **skipped})
        if self.events is not None:
            for part, loss in zip(self.work.parts, losses, strict=True):
                if math.isfinite(loss):
                    self.events.add_scalar(_tag("train/loss", part), loss, self.standing.step)
            self.events.add_scalar("train/lr", rates[0], self.standing.step)
        return {
            "loss": f"{sum(finite) / len(finite):.3f}",
            **({"dev": f"{self.standing.best:.4g}"} if self.standing.best is not None else {}),
        }

    def _check(self) -> None:
        """A gradient that was not finite ends the run: skipped in silence, it would be a wrong number. Of several parts, it ends this one's share in it."""
        # Ranks hold the same gradients, so they agree on both without asking.
        steps = self.broken.tolist()
        if all(steps):
            raise self._diverged("the gradient", f"at step {max(steps)}")
        for part, step in zip(self.standing.parts, steps, strict=False):
            part.diverged = step
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise self._diverged("the gradient", f"in all steps up to {self.standing.step}")

    def _diverged(self, what: str, when: str) -> HeadwaterError:
        return HeadwaterError(
            f"training diverged: {what}{' of every arm' if self.several else ''} was NaN or infinite {when}; "
            f"lower optimizer.lr (now {self.config.optimizer.lr:g}) or runner.gradient_clipping"
        )

    def _evaluate(self) -> None:
        self._check()
        self.world.share(self.work.module)
        state, step = self.standing, self.standing.step
        parts: list[Best] = state.parts or [state]
        before, found = state.best_step, self.work.evaluate()
        values: list[float | None] = [None] * len(parts)
        if found is not None:
            name, told = found
            state.history.append({"step": step, "dev": {name: told}})
            values = told if isinstance(told, list) else [told]
            # An answer that is not finite is divergence, whatever the gradient was.
            stopped = torch.tensor([value is None for value in values], device=self.device)
            self.broken = torch.where((self.broken == 0) & stopped, step, self.broken)
            self._check()
            if self.events is not None:
                for part, value in zip(self.work.parts, values, strict=True):
                    if value is not None:
                        self.events.add_scalar(_tag(f"dev/{name}", part), value, step)
                self.work.illustrate(self.events, step)
        chosen = [
            number
            for number, (part, value) in enumerate(zip(parts, values, strict=True))
            if not part.diverged and not part.done and self._better(part, value)
        ]
        if self.several:
            bests = [part.best for part in parts if part.best is not None]
            state.best = (max if self.work.higher_is_better else min)(bests, default=None)
            state.done = all(part.done or part.diverged for part in parts)
        if chosen:
            state.best_step = step
            if self.world.first:
                held = self.checkpoint.read_best(before) if self.several and before is not None else {}
                self.checkpoint.write_best(step, self.work.merged(held or self.work.module.state_dict(), chosen))

    def _better(self, part: Best, value: float | None) -> bool:
        """Whether the weights of this step are the part's best; its count of evaluations without a better one goes on."""
        if value is None:
            part.best_step = self.standing.step
            return True
        gain = 0.0 if part.best is None else (value - part.best if self.work.higher_is_better else part.best - value)
        first, patience = part.best is None, self.config.runner.patience
        part.since_best = 0 if first or gain > 0 else part.since_best + 1
        part.done = patience is not None and part.since_best >= patience
        # A tie goes to the later step: where dev is saturated, that is the better trained one.
        if first or gain >= 0:
            part.best_step, part.best = self.standing.step, value
            return True
        return False

    def _save(self) -> None:
        self._check()
        ranks = self.world.gather({"rng": rng_state(self.device), "running": self.running.cpu()})
        if not self.world.first:
            return
        state = {
            "standing": asdict(self.standing),
            "module": self.work.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "scaler": self.scaler.state_dict(),
            "ranks": ranks,
        }
        self.checkpoint.save(state, self.standing.best_step)

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        try:
            self.standing = Standing.restored(state["standing"])
            if len(self.standing.parts) != len(self.work.parts) * self.several:
                raise ValueError(f"of {len(self.standing.parts)} arms, there are {len(self.work.parts)} now")
            self.broken.copy_(torch.tensor([part.diverged for part in self.standing.parts or [self.standing]]))
            self.work.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            self.scaler.load_state_dict(state["scaler"])
            if len(state["ranks"]) != self.world.ranks:
                raise ValueError(f"made by {len(state['ranks'])} process(es), there are {self.world.ranks} now")
            own = state["ranks"][self.world.rank]
            self.running.copy_(own["running"])
            set_rng_state(own["rng"], self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise HeadwaterError(
                f"{self.checkpoint.last}: this checkpoint does not fit ({error}); start over with --fresh"
            ) from None


def _tag(name: str, part: str) -> str:
    """What TensorBoard calls a number of a part."""
    return f"{name}/{part}" if part else name


def fit(work: Work[Any], config: TrainingConfig, folder: Path, *, world: World, device: torch.device) -> Standing:
    """Train in a run's folder, from the seed or from where its checkpoint stands; on the first rank TensorBoard is told."""
    events = Events(folder) if world.first else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed + 1000003 * (1 + world.rank))
        checkpoint = Checkpoint(folder / "checkpoint")
        try:
            return Trainer(work, config, world=world, device=device, checkpoint=checkpoint, events=events).fit()
        finally:
            if events is not None:
                events.close()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the loop stops between two steps; a second Ctrl-C stops at once."""
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        # torchrun answers Ctrl-C with SIGTERM to its processes, which may have had the Ctrl-C already: that is one wish, not two.
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
