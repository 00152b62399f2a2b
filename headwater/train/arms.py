"""Arms: probes of one shape with parameters of their own, trained side by side on frames they share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from headwater.nn.specaug import spec_augment
from headwater.train.probe import Probe


@dataclass(frozen=True)
class Arm:
    """One of the probes. layer: the only one it reads; None for the learned weighted sum of all."""

    layer: int | None
    lr: float
    seed: int

    @property
    def selection(self) -> str:
        """As the result says it."""
        return "weighted_sum" if self.layer is None else f"layer {self.layer}"

    @property
    def name(self) -> str:
        return f"{self.selection}, lr {self.lr:g}, seed {self.seed}"


class StackedLinear(nn.Module):
    """The `nn.Linear` of G arms at once, their batches side by side on the first axis.

    (K x B, ..., D) -> (G x B, ..., C), where K is G, or fewer where arms share their input: those become one matrix product. `weight` (G, C, D), `bias` (G, C)
    and `batch` are set before each call.
    """

    weight: Tensor
    bias: Tensor | None
    batch: int

    def forward(self, x: Tensor) -> Tensor:
        arms, classes, dims = self.weight.shape
        sources = len(x) // self.batch
        rows = x.reshape(sources, -1, dims)
        # Arms on one source lie next to each other: their weights are one wide matrix.
        weight = self.weight.reshape(sources, -1, dims).transpose(1, 2)
        if self.bias is None:
            y = torch.bmm(rows, weight)
        else:
            y = torch.baddbmm(self.bias.reshape(sources, 1, -1), rows, weight)
        if sources < arms:
            y = y.unflatten(2, (-1, classes)).transpose(1, 2)
        return y.reshape(arms * self.batch, *x.shape[1:-1], classes)


class Family(nn.Module):
    """Arms of one structure. Every parameter of the probe is stacked, a tensor (selections, seeds, ...) for each learning rate.

    probes: [selection][seed], as their separate runs would start. rates: how many learning rates each is trained at. layers: which of the given states each
    selection reads; None for a weighted sum of all. Outputs of arms are in the order of selection, rate, seed.
    """

    def __init__(self, probes: Sequence[Sequence[Probe]], rates: int, layers: Sequence[int] | None) -> None:
        super().__init__()
        template = probes[0][0]
        self._template = [template]  # in a list: no part of this module
        self.layers = layers
        self.shape = (len(probes), rates, len(probes[0]))
        self.size = len(probes) * rates * len(probes[0])
        states = [[probe.state_dict() for probe in row] for row in probes]
        trained = {name for name, parameter in template.named_parameters() if parameter.requires_grad}
        # A name with a dot cannot be a parameter's.
        self.rates = nn.ModuleList(
            nn.ParameterDict(
                {
                    name.replace(".", "/"): nn.Parameter(
                        torch.stack([torch.stack([state[name] for state in row]) for row in states]),
                        requires_grad=name in trained,
                    )
                    for name in states[0][0]
                }
            )
            for _ in range(rates)
        )
        self.names = list(states[0][0])
        self.folded = _folded(template.head)
        self.draws = template.specaug is not None

    def stacked(self, name: str) -> Tensor:
        """A parameter of all arms (arms, ...)."""
        key = name.replace(".", "/")
        each = [rate[key] for rate in self.rates]  # type: ignore[index]
        return torch.stack(each, 1).flatten(0, 2) if len(each) > 1 else each[0].flatten(0, 1)

    def parameters_at(self, rate: int) -> list[nn.Parameter]:
        return [parameter for parameter in self.rates[rate].parameters() if parameter.requires_grad]

    def forward(self, states: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        """states (L, B, T, D) -> what the heads give, with a first axis of arms."""
        return (
            self.one_by_one(states, lengths, inputs) if self.folded is None else self.together(states, lengths, inputs)
        )

    def one_by_one(self, states: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        """Every arm as the probe that it is."""
        template = self._template[0].train(self.training)
        outputs = []
        for selection, rate, seed in product(*map(range, self.shape)):
            layer = self.layers and self.layers[selection]
            given = tuple(states) if layer is None else (states[layer],)
            # Views of what is kept, not of a copy: a head may count or average in its buffers.
            own = {name: self.rates[rate][name.replace(".", "/")][selection, seed] for name in self.names}  # type: ignore[index]
            outputs.append(functional_call(template, own, (given, lengths, inputs))[0])
        return tree_map(lambda *leaves: None if leaves[0] is None else torch.stack(leaves), *outputs)

    def together(self, states: Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        """All arms as one: their batches side by side on the first axis."""
        assert self.folded is not None
        probe, batch = self._template[0], len(lengths)
        frames = self._frames(states)
        if self.training and self.draws and len(frames) < self.size:
            frames = frames.repeat_interleave(self.size // len(frames), 0)
        sources = len(frames)
        x, lengths = frames.flatten(0, 1), lengths.repeat(sources)
        if self.training and probe.specaug is not None:
            x = spec_augment(x, lengths, **probe.specaug.model_dump())
        inputs = {name: value.repeat(sources, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
        for name, module in self.folded.named_modules():
            if isinstance(module, StackedLinear):
                prefix = f"head.{name}." if name else "head."
                module.weight = self.stacked(f"{prefix}weight")
                module.bias = self.stacked(f"{prefix}bias") if f"{prefix}bias" in self.names else None
                module.batch = batch

        def by_arm(leaf: Tensor | None) -> Tensor | None:
            if leaf is None:
                return None
            held = leaf.unflatten(0, (-1, batch))
            # What no parameter has touched is still the same for arms on one source.
            return held if len(held) == self.size else held.repeat_interleave(self.size // len(held), 0)

        return tree_map(by_arm, self.folded(x, lengths, inputs))

    def _frames(self, states: Tensor) -> Tensor:
        """(L, B, T, D) -> (sources, B, T, D)."""
        if self._template[0].featurizer.normalize:
            states = nn.functional.layer_norm(states, states.shape[-1:])
        if self.layers is None:
            return torch.tensordot(torch.softmax(self.stacked("featurizer.weights"), 1), states, 1)
        first, count = self.layers[0], len(self.layers)
        if list(self.layers) == list(range(first, first + count)):
            return states[first : first + count]
        return states[list(self.layers)]


class Arms(nn.Module):
    """Families of arms on the same states.

    probes: the start of each (selection, seed), by arm. given: the layers whose states come in.
    """

    def __init__(self, arms: Sequence[Arm], probes: Callable[[int | None, int], Probe], given: Sequence[int]) -> None:
        super().__init__()
        self.lrs = sorted({arm.lr for arm in arms})
        self.given = tuple(given)
        seeds = sorted({arm.seed for arm in arms})
        selections = list(dict.fromkeys(arm.layer for arm in arms))
        groups: list[list[int | None]] = [[layer for layer in selections if layer is None]]
        groups.append([layer for layer in selections if layer is not None])
        groups = [group for group in groups if group]
        self.families = nn.ModuleList(
            Family(
                [[probes(layer, seed) for seed in seeds] for layer in group],
                len(self.lrs),
                None if group[0] is None else [self.given.index(layer) for layer in group if layer is not None],
            )
            for group in groups
        )
        self.arms = [Arm(layer, lr, seed) for group in groups for layer in group for lr in self.lrs for seed in seeds]
        # Family, rate, selection and seed of each arm: where its slice lies.
        self._places = [
            (number, rate, selection, seed)
            for number, group in enumerate(groups)
            for selection in range(len(group))
            for rate in range(len(self.lrs))
            for seed in range(len(seeds))
        ]

    def forward(self, states: Sequence[Tensor] | Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> list[Any]:
        """The given states, each (B, T, D) -> for each family what its heads give, with a first axis of arms."""
        if not isinstance(states, Tensor):
            states = torch.stack(tuple(states)) if len(states) > 1 else states[0][None]
        return [family(states, lengths, inputs) for family in self.families]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group a learning rate."""
        return [
            {"params": [p for family in self.families for p in family.parameters_at(rate)], "lr": lr}  # type: ignore[operator]
            for rate, lr in enumerate(self.lrs)
        ]

    def clip(self, limit: float) -> Tensor:
        """Scale each arm's gradient to a norm of at most `limit`, as `clip_grad_norm_` does for one. Returns the norms before it (arms,)."""
        norms = []
        for family in self.families:
            of_rates = []
            for rate in range(len(self.lrs)):
                gradients = [p.grad for p in family.parameters_at(rate) if p.grad is not None]  # type: ignore[operator]
                each = [torch.linalg.vector_norm(gradient.flatten(2), dim=2) for gradient in gradients]
                norm = torch.linalg.vector_norm(torch.stack(each), dim=0)
                scale = (limit / (norm + 1e-6)).clamp(max=1.0)
                for gradient in gradients:
                    gradient.mul_(scale.view(*scale.shape, *[1] * (gradient.dim() - 2)))
                of_rates.append(norm)
            norms.append(torch.stack(of_rates, 1).flatten())
        return torch.cat(norms)

    def state_of(self, number: int) -> dict[str, Tensor]:
        """The weights of one arm, as its probe would have them."""
        family, rate, selection, seed = self._places[number]
        prefix = f"families.{family}.rates.{rate}."
        return {
            name.removeprefix(prefix).replace("/", "."): tensor[selection, seed].clone()
            for name, tensor in self.state_dict().items()
            if name.startswith(prefix)
        }

    def merged(self, best: dict[str, Tensor], chosen: Sequence[int]) -> dict[str, Tensor]:
        """`best` (a `state_dict`), with the weights as they are now for the arms `chosen`."""
        now, merged = self.state_dict(), {name: tensor.clone() for name, tensor in best.items()}
        for number in chosen:
            family, rate, selection, seed = self._places[number]
            prefix = f"families.{family}.rates.{rate}."
            for name, tensor in now.items():
                if name.startswith(prefix):
                    merged[name][selection, seed] = tensor[selection, seed].to(merged[name].device)
        return merged

    @torch.no_grad()
    def settle(self, states: Sequence[Tensor] | Tensor, lengths: Tensor, inputs: Mapping[str, Tensor]) -> None:
        """Find out on some utterances which families can run as one, and which draw random numbers in training."""
        device = lengths.device
        stacked = states if isinstance(states, Tensor) else torch.stack(tuple(states))
        kept, mode = {name: tensor.clone() for name, tensor in self.state_dict().items()}, self.training
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            # Arms that start alike would hide what passes from one to the other.
            for parameter in self.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.rand_like(parameter))
            for family in self.families:
                assert isinstance(family, Family)
                if family.folded is None:
                    continue
                try:
                    self.eval()
                    expected = family.one_by_one(stacked, lengths, inputs)
                    found = family.together(stacked, lengths, inputs)
                    if not alike(expected, found):
                        family.folded = None
                        continue
                    self.train()
                    before = _generator(device)
                    family.together(stacked, lengths, inputs)
                    family.draws = family.draws or not torch.equal(before, _generator(device))
                except (RuntimeError, ValueError, IndexError, TypeError):
                    # A head may do with its batch whatever it likes; then its arms run one by one.
                    family.folded = None
        self.load_state_dict(kept)
        self.train(mode)


def alike(one: Any, other: Any) -> bool:
    """Whether two outputs are the same but for rounding."""
    same: list[bool] = []

    def compare(a: Any, b: Any) -> None:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            scale = 1e-5 * float(a.abs().max().clamp(min=1)) if a.is_floating_point() and a.numel() else 0.0
            same.append(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=scale))
        else:
            same.append(a is None and b is None)

    tree_map(compare, one, other)
    return all(same)


def _generator(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _folded(head: nn.Module) -> nn.Module | None:
    """The head with a `StackedLinear` for each `nn.Linear`; None where something else holds parameters or state."""
    copied = copy.deepcopy(head)
    linears = [name for name, module in copied.named_modules() if type(module) is nn.Linear]
    if linears == [""]:
        return StackedLinear()
    for name in linears:
        copied.set_submodule(name, StackedLinear())
    return None if copied.state_dict() else copied
