"""The upstream contract: waveforms in, frames of every layer out, with exact lengths and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headwater.config import FeatureSet
from headwater.errors import DataError, UsageError, place_of
from headwater.nn.lengths import pad, zero_beyond
from headwater.settings import merge


@dataclass(frozen=True)
class Features:
    """What an upstream says of some utterances.

    hidden_states: tuple over layers of (B, T, D), zero beyond the lengths, the earliest layer first.
    lengths: (B,) int64, valid frames.
    stride, offset: samples between frames; centre of frame 0 in samples.
    """

    hidden_states: tuple[Tensor, ...]
    lengths: Tensor
    stride: int
    offset: float

    @property
    def last_hidden_state(self) -> Tensor:
        return self.hidden_states[-1]

    def __getitem__(self, key: str) -> Any:
        """S3PRL's form: `features["hidden_states"]`, `features["last_hidden_state"]`."""
        if key in ("hidden_states", "last_hidden_state"):
            return getattr(self, key)
        raise KeyError(f"{key!r}; an upstream answers 'hidden_states' and 'last_hidden_state'")


@dataclass(frozen=True)
class UpstreamSpec:
    """What a head may know of the upstream below it.

    file_sha256: of the one file that its weights were read from, None where there is none.
    """

    name: str
    sample_rate: int
    stride: int
    offset: float
    out_dim: int
    layer_dims: tuple[int, ...]
    layer_names: tuple[str, ...]
    file_sha256: str | None = None


class NoFrontend(nn.Module):
    """Stands where an upstream takes precomputed features only: it knows their size and time, and refuses waveforms by name."""

    def __init__(
        self, name: str, out_dim: int, *, sample_rate: int = 16000, stride: int = 160, offset: float = 200.0
    ) -> None:
        super().__init__()
        self.name, self.out_dim = name, out_dim
        self.sample_rate, self.stride, self.offset = sample_rate, stride, offset

    def frames(self, samples: int) -> int:
        """Frames of sound of so many samples: the inverse of `headwater.data.features.num_samples`."""
        return max(1, 1 + (samples - max(1, round(2 * self.offset))) // self.stride)

    def forward(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        raise self.refusal()

    def refusal(self) -> UsageError:
        """What to raise where waveforms are given."""
        return UsageError(
            f"upstream {self.name!r} has no front-end: it takes precomputed features (T, {self.out_dim}), not waveforms "
            "(a folder that the preprocess scripts made is such data)"
        )


class Upstream(nn.Module):
    """Base of all upstreams.

    A subclass sets up its modules and overrides `hidden_states`, and `out_lengths` where it changes the number of frames. All attributes below are
    constants of the object.

    sample_rate: of the waveforms it takes, in Hz.
    stride, offset: samples between output frames; centre of output frame 0 in samples (may be a half).
    in_dim, out_dim: dims of a front-end frame, and of the last hidden state.
    layer_dims, layer_names: of every hidden state, the earliest first.
    padding_invariant: false for a foreign module that cannot be masked; it is then run on groups of equal length.
    """

    card: Any = None
    weight_file: Any = None  # where its weights came from, as a result says it: name, url, sha256
    name: str = "upstream"
    padding_invariant: bool = True

    def __init__(
        self,
        frontend: Any,
        layer_dims: Sequence[int],
        layer_names: Sequence[str],
        *,
        stride: int | None = None,
        offset: float | None = None,
    ) -> None:
        super().__init__()
        if len(layer_dims) != len(layer_names):
            raise ValueError(f"{len(layer_dims)} layer_dims, {len(layer_names)} layer_names")
        self.frontend: Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]] = frontend
        self.sample_rate: int = frontend.sample_rate
        self.stride: int = frontend.stride if stride is None else stride
        self.offset: float = frontend.offset if offset is None else offset
        self.in_dim: int = frontend.out_dim
        self.layer_dims = tuple(layer_dims)
        self.layer_names = tuple(layer_names)

    @classmethod
    def from_card(cls, card: Any, ckpt: str | None, config: Mapping[str, Any]) -> Upstream:
        """Build from a card's settings and the user's over them. An upstream that takes weight files overrides this.

        Raises UsageError for a `ckpt`, which would otherwise be ignored in silence.
        """
        refuse_ckpt(card.name, ckpt)
        return cls(**merge(card.config, config))

    def facts(self) -> dict[str, Any]:
        """What a file of its weights must say besides them, so that `from_card` makes the same of it again. Nothing where it takes no such file."""
        return {}

    def take_features(self, given: FeatureSet | None) -> None:
        """Make ready for data of precomputed features, whose time is the upstream's from here on; None stands for waveforms.

        Raises UsageError where it takes the other of the two, or features of another size.
        """
        before = self.frontend
        if given is None:
            if isinstance(before, NoFrontend):
                raise before.refusal()
            return
        if not isinstance(before, NoFrontend):
            raise UsageError(
                f"upstream {self.name!r} begins with waveforms, and this data is precomputed features ({given.kind}, {given.dim} dims): "
                "take -u features or another upstream without a front-end, or give the audio with --data"
            )
        if given.dim != self.in_dim:
            raise UsageError(
                f"upstream {self.name!r} takes features of {self.in_dim} dims, and this data ({given.kind}) has {given.dim}"
            )
        self.offset = given.offset + (self.offset - before.offset) / before.stride * given.stride
        self.stride = self.stride // before.stride * given.stride
        self.sample_rate = given.sample_rate
        self.frontend = NoFrontend(
            self.name, given.dim, sample_rate=given.sample_rate, stride=given.stride, offset=given.offset
        )

    @property
    def out_dim(self) -> int:
        return self.layer_dims[-1]

    @property
    def num_layers(self) -> int:
        """The number of hidden states, the input of the first block among them."""
        return len(self.layer_dims)

    @property
    def spec(self) -> UpstreamSpec:
        digest = (self.weight_file or {}).get("sha256")
        return UpstreamSpec(
            self.name,
            self.sample_rate,
            self.stride,
            self.offset,
            self.out_dim,
            self.layer_dims,
            self.layer_names,
            digest if isinstance(digest, str) else None,
        )

    def out_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) front-end frames -> (B,) output frames. A pure function."""
        return lengths

    def frames(self, samples: int) -> int:
        """The number of output frames for a waveform of so many samples. A pure function; at least 1 for 1 sample or more."""
        count = self.frontend.frames(samples)  # type: ignore[attr-defined]
        return int(self.out_lengths(torch.tensor([count]))[0])

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """(B, T, in_dim), (B,) -> tuple of (B, T', layer_dims[i]), and the output lengths (B,). The base is the identity: the front-end is the upstream."""
        return (x,), lengths

    def forward(self, x: Tensor | Sequence[Tensor], lengths: Tensor | None = None) -> Any:
        """(B, T, in_dim) -> (B, T', out_dim), the last layer. With a list of waveforms (S3PRL's call) it is `extract`."""
        if not isinstance(x, Tensor):
            return self.extract(x)
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        return self._masked(x, lengths)[0][-1]

    def extract(self, wavs: Sequence[Tensor]) -> Features:
        """Features of some utterances: 1-D float waveforms, or precomputed features (T, in_dim), of any lengths.

        An utterance has the same valid frames alone and among any others.

        Raises DataError for an empty, non-float or wrongly shaped item, and for NaN and infinity.
        """
        return self.encode(*self.inputs(wavs))

    def encode(self, x: Tensor, lengths: Tensor) -> Features:
        """`extract` from the front-end's output on."""
        states, lengths = self._masked(x, lengths)
        return Features(states, lengths, self.stride, self.offset)

    def inputs(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What enters the model, (B, T, in_dim), and lengths (B,): the front-end's output, or the features as they were given."""
        if not len(wavs):
            raise DataError(f"upstream {self.name!r} was given an empty list")
        for position, wav in enumerate(wavs):
            if not isinstance(wav, Tensor) or not wav.is_floating_point():
                raise DataError(
                    f"upstream {self.name!r}, item {position}: a float tensor is needed, got {wav.dtype if isinstance(wav, Tensor) else type(wav).__name__}"
                )
            if wav.dim() not in (1, 2) or (wav.dim() == 2 and wav.shape[1] != self.in_dim) or wav.shape[0] == 0:
                raise DataError(
                    f"upstream {self.name!r}, item {position} has shape {tuple(wav.shape)}: a non-empty waveform (samples,) or features (T, {self.in_dim})"
                )
        if len({wav.dim() for wav in wavs}) > 1:
            raise DataError(f"upstream {self.name!r}: waveforms and features in one list")
        # One wait for the device, not one an item.
        finite = torch.stack([torch.isfinite(wav).all() for wav in wavs]).tolist()
        if not all(finite):
            raise DataError(f"upstream {self.name!r}, item {finite.index(False)} holds NaN or infinity")
        x, lengths = pad(wavs) if wavs[0].dim() == 2 else self.frontend(wavs)
        return x, lengths

    def _masked(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        if self.padding_invariant:
            return self.hidden_states(x, lengths)
        return self._by_length(x, lengths)

    def _by_length(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        rows: dict[int, list[Tensor]] = {}
        for length in lengths.unique().tolist():
            members = (lengths == length).nonzero()[:, 0]
            states, out = self.hidden_states(x[members, :length], lengths[members])
            for row, member in enumerate(members.tolist()):
                rows[member] = [state[row, : int(out[row])] for state in states]
        columns = [pad([rows[member][layer] for member in range(len(lengths))]) for layer in range(self.num_layers)]
        return tuple(column[0] for column in columns), columns[0][1]


def refuse_ckpt(name: str, ckpt: str | None) -> None:
    """`UsageError` where a weight file was given to an upstream that takes none."""
    if ckpt is not None:
        raise UsageError(f"upstream {name!r} takes no weight file, yet one was given: {ckpt}")


class ForeignUpstream(Upstream):
    """A user's plain `nn.Module` with `out_dim` and `forward (B, T, D) -> (B, T, out_dim)`. It knows no lengths, so it is run on groups of equal length."""

    padding_invariant = False

    def __init__(self, module: nn.Module, frontend: Any) -> None:
        out_dim = getattr(module, "out_dim", None)
        if not isinstance(out_dim, int) or out_dim < 1:
            raise UsageError(
                f"{type(module).__name__}: an upstream needs an attribute `out_dim`, the number of dims it gives (an int); it has {out_dim!r}"
            )
        super().__init__(frontend, (out_dim,), (type(module).__name__,))
        self.module = module

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        try:
            y = self.module(x)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise UsageError(
                f"{type(self.module).__name__}.forward failed for an input of {tuple(x.shape)}: {type(error).__name__}: {error} ({place_of(error)})"
            ) from error
        expected = (x.shape[0], x.shape[1], self.out_dim)
        if not isinstance(y, Tensor) or tuple(y.shape) != expected:
            found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise UsageError(
                f"{type(self.module).__name__}.forward gave {found} for an input of {tuple(x.shape)}; a (B, T, out_dim) tensor is needed: {expected}"
            )
        return (zero_beyond(y, lengths),), lengths
