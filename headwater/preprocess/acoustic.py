"""S3PRL's offline acoustic features, computed by librosa.

The definitions are those of S3PRL's first releases, made with a librosa that padded by reflection: fbank and mfcc on 25 ms windows every 10 ms, mel and linear
on 50 ms windows every 12.5 ms, all at 16 kHz and centred, so that frame k lies at sample k * stride.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from headwater.config import FeatureSet
from headwater.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

FeatureType = Literal["mfcc", "fbank", "mel", "linear"]
FEATURE_TYPES: tuple[FeatureType, ...] = ("mfcc", "fbank", "mel", "linear")
SAMPLE_RATE = 16000
_STATIC_DIMS = {"mfcc": 13, "fbank": 80, "mel": 80, "linear": 1025}
_STRIDES = {"mfcc": 160, "fbank": 160, "mel": 200, "linear": 200}  # samples
_SHORT: dict[str, Any] = {"n_fft": 400, "hop_length": 160, "pad_mode": "reflect"}
_LONG: dict[str, Any] = {"n_fft": 2048, "hop_length": 200, "win_length": 800, "pad_mode": "reflect"}
_DELTA_WIDTH = 9  # frames, librosa's default


@dataclass(frozen=True)
class Acoustic:
    """One kind of features. delta, delta_delta: slopes and their slopes, appended; cmvn: each dimension with mean 0 and variance 1 over the utterance."""

    feature_type: FeatureType
    delta: bool = False
    delta_delta: bool = False
    cmvn: bool = True

    def __post_init__(self) -> None:
        if self.feature_type == "linear" and (self.delta or self.delta_delta):
            raise UsageError("linear features have no deltas: leave --delta and --delta_delta out, or give False")

    @property
    def about(self) -> FeatureSet:
        """Name (`mel160`, `mfcc39`, ...), size and time."""
        dim = _STATIC_DIMS[self.feature_type] * (1 + self.delta + self.delta_delta)
        return FeatureSet(
            kind=f"{self.feature_type}{dim}",
            dim=dim,
            sample_rate=SAMPLE_RATE,
            stride=_STRIDES[self.feature_type],
            offset=0.0,
        )

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        """(samples,) at 16 kHz -> (T, dim) float32. `DataError` where the utterance is too short for a delta."""
        import librosa
        import numpy as np

        with warnings.catch_warnings():
            # Short utterances, and mel bands that hold no bin of a 400-point transform: both are part of the definition.
            warnings.simplefilter("ignore", UserWarning)
            static = self._static(wav)
        if (self.delta or self.delta_delta) and static.shape[1] < _DELTA_WIDTH:
            raise DataError(f"it has {static.shape[1]} frames, and a delta needs {_DELTA_WIDTH}")
        orders = [order for order, wanted in ((1, self.delta), (2, self.delta_delta)) if wanted]
        rows = np.concatenate([static, *(librosa.feature.delta(static, order=order) for order in orders)])
        if self.cmvn:
            # In float64 the mean of a constant is that constant, so that digital silence is zeros and not rounding noise over 1e-16.
            rows = rows.astype(np.float64)
            rows = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-16)
        return np.ascontiguousarray(rows.T, dtype=np.float32)

    def _static(self, wav: np.ndarray) -> np.ndarray:
        """(dim, T), as librosa lays it out."""
        import librosa
        import numpy as np

        if self.feature_type == "linear":
            emphasised = np.append(wav[:1], wav[1:] - 0.97 * wav[:-1])
            decibels = 20 * np.log10(np.maximum(1e-5, np.abs(librosa.stft(emphasised, **_LONG)))) - 20
            return np.clip((decibels + 100) / 100, 0, 1)
        if self.feature_type == "mfcc":
            cepstra = librosa.feature.mfcc(y=wav, sr=SAMPLE_RATE, n_mfcc=13, **_SHORT)
            cepstra[0] = librosa.feature.rms(y=wav, frame_length=400, hop_length=160, pad_mode="reflect")
            return cepstra
        framing = _SHORT if self.feature_type == "fbank" else _LONG
        return np.log(librosa.feature.melspectrogram(y=wav, sr=SAMPLE_RATE, n_mels=80, **framing) + 1e-6)
