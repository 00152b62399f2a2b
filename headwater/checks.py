"""The upstream contract, point by point: for the registry's own tests, and for anybody's upstream (`headwater check upstream NAME`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwater.errors import HeadwaterError
from headwater.loading import load_upstream
from headwater.nn.upstream import NoFrontend, Upstream

SAMPLES = (16000, 7001, 11999)
SHORT = (1, 30, 399, 400, 401, 480, 560)
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Point:
    """One promise: what is claimed, whether it holds, and if not what was found and what to do."""

    claim: str
    passed: bool
    explanation: str = ""


def noises(seed: int, *samples: int) -> list[Tensor]:
    """Seeded Gaussian noise of a tenth of full scale, (samples,) each."""
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(count, generator=generator) for count in samples]


def check_upstream(
    name: str, *, ckpt: str | None = None, config: Mapping[str, Any] | None = None, device: str = "cpu"
) -> list[Point]:
    """All points for one upstream. An error inside a point is a failure of it, explained."""

    def load() -> Upstream:
        return load_upstream(name, ckpt=ckpt, config=config, device=device)

    model = load()
    points = []
    for claim, probe in POINTS.items():
        try:
            explanation = probe(model, load)
        except HeadwaterError as error:
            explanation = str(error)
        except Exception as error:  # somebody else's code: whatever it raises is the finding
            explanation = f"{type(error).__name__}: {error}"
        points.append(Point(claim, explanation is None, explanation or ""))
    return points


Probe = Callable[[Upstream, Callable[[], Upstream]], "str | None"]


def _device(model: Upstream) -> torch.device:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def given(model: Upstream, wavs: list[Tensor]) -> list[Tensor]:
    """What stands for these waveforms: themselves, or for an upstream that takes precomputed features as many frames, made of the same numbers."""
    if not isinstance(model.frontend, NoFrontend):
        return wavs
    shapes = [(model.frontend.frames(len(wav)), model.in_dim) for wav in wavs]
    return [
        wav.repeat(-(-frames * dim // len(wav)))[: frames * dim].view(frames, dim)
        for wav, (frames, dim) in zip(wavs, shapes)
    ]


@torch.no_grad()
def _extract(model: Upstream, wavs: list[Tensor]) -> Any:
    return model.extract([wav.to(_device(model)) for wav in given(model, wavs)])


def _shapes(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    features = _extract(model, noises(0, *SAMPLES))
    found = [tuple(state.shape) for state in features.hidden_states]
    longest = int(features.lengths.max())
    expected = [(len(SAMPLES), longest, dim) for dim in model.layer_dims]
    return (
        None if found == expected else f"hidden states have the shapes {found}; lengths and layer_dims say {expected}"
    )


def _frames(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    for count in (*SHORT, *SAMPLES):
        got, said = int(_extract(model, noises(1, count)).lengths[0]), model.frames(count)
        if got != said or got < 1:
            return f"{count} samples gave {got} frames, frames({count}) says {said}; it must be equal and at least 1"
    return None


def _finite(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    for what, wavs in (
        ("noise", noises(2, *SAMPLES)),
        ("silence", [torch.zeros(8000)]),
        ("one sample", [torch.ones(1)]),
    ):
        if not all(bool(torch.isfinite(state).all()) for state in _extract(model, wavs).hidden_states):
            return f"{what} gives NaN or infinity"
    return None


def _alone(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    wavs = noises(3, *SAMPLES)
    together = _extract(model, wavs)
    for position, wav in enumerate(wavs):
        alone = _extract(model, [wav])
        length = int(alone.lengths[0])
        if length != int(together.lengths[position]):
            return f"{len(wav)} samples give {length} frames alone and {int(together.lengths[position])} in a batch"
        for layer, state in zip(model.layer_names, range(model.num_layers), strict=True):
            a, b = alone.hidden_states[state][0, :length], together.hidden_states[state][position, :length]
            scale = float(a.square().mean().sqrt().clamp(min=1e-12))
            error = float((a - b).abs().max()) / scale
            if error > TOLERANCE:
                return (
                    f"state {layer!r} of {len(wav)} samples differs by {error:.1e} (relative to its RMS) between alone and in a batch: "
                    "mask what lies beyond the lengths, or say `padding_invariant: false` on the card"
                )
    return None


def _zero_beyond(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    features = _extract(model, noises(4, *SAMPLES))
    for name, state in zip(model.layer_names, features.hidden_states, strict=True):
        for row, length in enumerate(features.lengths.tolist()):
            if bool((state[row, length:] != 0).any()):
                return f"state {name!r} is not zero beyond the lengths"
    return None


def _repeatable(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    wavs = noises(5, *SAMPLES)
    first = _extract(model, wavs)
    for what, second in (("a second call", _extract(model, wavs)), ("a second loading", _extract(load(), wavs))):
        if not all(torch.equal(a, b) for a, b in zip(first.hidden_states, second.hidden_states, strict=True)):
            return f"{what} gives other numbers: an upstream in eval() must not draw random numbers, and its weights must not depend on when it is loaded"
    return None


def _in_eval(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    training = [name or "the model" for name, module in load().named_modules() if module.training]
    return f"{training[0]} is in training mode after loading" if training else None


def _gradient(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    fresh = load()
    parameters = [(name, parameter) for name, parameter in fresh.named_parameters() if parameter.requires_grad]
    if not parameters:
        return None
    fresh.extract(
        [wav.to(_device(fresh)) for wav in given(fresh, noises(6, *SAMPLES))]
    ).last_hidden_state.square().sum().backward()  # type: ignore[no-untyped-call]
    return (
        None
        if any(parameter.grad is not None and bool((parameter.grad != 0).any()) for _, parameter in parameters)
        else "no gradient reaches any parameter; is there a no_grad or detach?"
    )


def _input_kept(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    wavs = [wav.to(_device(model)) for wav in given(model, noises(7, *SAMPLES))]
    copies = [wav.clone() for wav in wavs]
    with torch.no_grad():
        model.extract(wavs)
    return (
        None
        if all(torch.equal(a, b) for a, b in zip(wavs, copies, strict=True))
        else "the waveforms given to it were changed in place"
    )


def _time(model: Upstream, load: Callable[[], Upstream]) -> str | None:
    if not isinstance(model.stride, int) or model.stride < 1 or 2 * model.offset != round(2 * model.offset):
        return f"stride must be a whole number of samples and offset a multiple of one half; they are {model.stride!r} and {model.offset!r}"
    long = 200 * model.stride + 16000
    rate = (model.frames(2 * long) - model.frames(long)) / long
    return (
        None
        if abs(rate * model.stride - 1) < 0.02
        else f"{long} samples more give {rate * long:.0f} frames more; a stride of {model.stride} says {long / model.stride:.0f}"
    )


POINTS: dict[str, Probe] = {
    "hidden states have the shapes that layer_dims and lengths say": _shapes,
    "frames(samples) is the number of frames it gives, for short input too": _frames,
    "stride and offset are exact": _time,
    "all numbers are finite, for silence too": _finite,
    "an utterance has the same frames alone and in a batch": _alone,
    "what lies beyond the lengths is zero": _zero_beyond,
    "the same input gives the same bits, in every process": _repeatable,
    "it is in eval mode after loading": _in_eval,
    "gradient reaches its parameters, where it has any": _gradient,
    "the waveforms it is given stay as they are": _input_kept,
}
