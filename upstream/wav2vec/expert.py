"""wav2vec and vq-wav2vec as upstreams, and fairseq's and S3PRL's files of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from headwater.audio.frontends import Waveform
from headwater.errors import UsageError
from headwater.fairseq import read_fairseq
from headwater.nn.convolution import frame_counts, timing
from headwater.nn.lengths import zero_beyond
from headwater.pretrained import upstream as pretrained
from headwater.pretrained.layers import dims_of, windows_of
from headwater.pretrained.names import Rules, renamed
from headwater.pretrained.upstream import Pretrained

from .model import Settings, Wav2vecNet

NAMES: Rules = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(.+)", r"features.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(.+)", r"features.\1.norm.\2"),
    (r"feature_aggregator\.conv_layers\.(\d+)\.1\.(.+)", r"aggregator.\1.layer.conv.\2"),
    (r"feature_aggregator\.conv_layers\.(\d+)\.3\.(.+)", r"aggregator.\1.layer.norm.\2"),
    (r"feature_aggregator\.residual_proj\.(\d+)\.(.+)", r"aggregator.\1.residual.\2"),
    (r"wav2vec_predictions\.project_to_steps\.(.+)", r"steps.\1"),
    (r"vector_quantizer\.(?:vars|embedding)", "quantizer.codebook"),
    (r"vector_quantizer\.projection\.0\.(.+)", r"quantizer.projection.\1"),
    (r"vector_quantizer\.projection\.1\.(.+)", r"quantizer.norm.\1"),
    (r"vector_quantizer\.weight_proj\.(\d+)\.0\.(.+)", r"quantizer.hidden.\1.\2"),
    (r"vector_quantizer\.weight_proj\.(?:\d+\.)?(weight|bias)", r"quantizer.logits.\1"),
)


class Choices(pretrained.Choices):
    features: Literal["states", "codewords"] = Field(
        "states", description="all hidden states, or what the quantizer gives alone"
    )


class Wav2vec(Pretrained):
    """z, the output of every layer of the aggregator, the last of which is c. With a quantizer, the aggregator sees codewords."""

    settings_type, choices_type = Settings, Choices
    settings: Settings
    network: Wav2vecNet

    def __init__(self, settings: Settings, name: str = "wav2vec", *, features: str = "states") -> None:
        if features == "codewords" and settings.vq_type == "none":
            raise UsageError(f"upstream.config.features: {name!r} has no codewords, as it has no quantizer")
        dims, windows = dims_of(settings.conv_aggregator_layers), windows_of(settings.conv_feature_layers)
        between = (f"aggregator {number + 1}" for number in range(len(dims) - 1))
        names = ["z (features)", *between, "c (context)"]
        dims = [dims_of(settings.conv_feature_layers)[-1], *dims]
        if features == "codewords":
            names, dims = ["codewords"], [settings.code_dim]
        stride, offset = timing(windows)
        super().__init__(Waveform(), dims, names, stride=stride, offset=offset)
        self.settings, self.network = settings, self.network_of(settings)
        self.features = features

    @classmethod
    def family(cls, settings: Settings) -> str:
        return {"none": "wav2vec", "gumbel": "vq_wav2vec", "kmeans": "vq_wav2vec_kmeans"}[settings.vq_type]

    @classmethod
    def network_of(cls, settings: Settings) -> Wav2vecNet:
        return Wav2vecNet(settings)

    @classmethod
    def foreign(cls, path: str | Path, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        file = read_fairseq(path)
        known = {key: file.model[key] for key in Settings.model_fields if file.model.get(key) is not None}
        weights = renamed(file.weights, NAMES)
        codebook = weights.get("quantizer.codebook")
        if isinstance(codebook, Tensor) and known.get("vq_type") == "gumbel" and codebook.dim() == 3:
            weights["quantizer.codebook"] = codebook[0]
        return known, weights

    def out_lengths(self, lengths: Tensor) -> Tensor:
        return frame_counts(lengths, self.network.windows)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        encoded = self.network.encode(x, lengths)
        seen = encoded.z
        if self.network.quantizer is not None:
            seen = self.network.quantize(encoded).codewords.transpose(1, 2)
        if self.features == "codewords":
            states = [seen]
        else:
            states = [encoded.z, *self.network.aggregate(seen, encoded.padded)]
        return tuple(zero_beyond(state.transpose(1, 2), encoded.frames) for state in states), encoded.frames

    def quantized(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.network.quantizer is None:
            return super().quantized(x, lengths)
        return self.network.quantize(self.network.encode(x, lengths)).codes
