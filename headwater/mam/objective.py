"""Masked reconstruction: frames are altered, and the encoder has to give the original ones back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwater.audio.frontends import Frontend
from headwater.config import FeatureSet
from headwater.errors import UsageError
from headwater.mam.masking import Masking, draw
from headwater.mam.settings import Settings, build_head, build_transformer, frontend_of, target_of
from headwater.mam.weights import write_model
from headwater.nn.lengths import pad
from headwater.train.objective import Objective, Share


class MaskedReconstruction(Objective):
    """L1 (or MSE) between target frames and what the head makes of the altered input, over the elements that were to be reconstructed.

    The target is the unaltered input, or another feature of the same waveform (`audio.target`). Sources: Mockingjay (https://arxiv.org/abs/1910.12638),
    TERA (https://arxiv.org/abs/2007.06028), Audio ALBERT (https://arxiv.org/abs/2005.08575).
    """

    Config = Settings
    config: Settings

    def __init__(self, config: Settings, features: FeatureSet | None = None) -> None:
        """`UsageError` for settings that describe no model, or none for this data."""
        super().__init__(config, features)
        task, audio = config.task, config.audio
        if config.transformer.downsample_rate != 1 or config.transformer.prune_headids:
            raise UsageError(
                "model.transformer: downsample_rate and prune_headids belong to models that are read; leave them out"
            )
        self.input: Frontend | None = None
        self.target: Frontend | None = None
        if features is not None:
            config.audio = {}  # the data is what the front-end would have made
            stride, in_dim, out_dim = features.stride, features.dim, features.dim
            self.sample_rate = features.sample_rate
        else:
            if not audio:
                raise UsageError("model.audio is empty: say which features of the waveform the model sees")
            # The whole utterance has its level before it is cut, so the front-ends leave that alone.
            self.level = frontend_of(audio).target_level
            audio = {key: value for key, value in audio.items() if key != "target_level"}
            self.input = frontend_of(audio)
            self.target = target_of(audio) if _other_target(audio) else None
            stride, in_dim = self.input.stride, self.input.out_dim
            out_dim = in_dim if self.target is None else self.target.out_dim
            self.sample_rate = self.input.sample_rate
        self.crop = task.sequence_length * stride or None
        self.policy = Masking(
            task.mask_proportion,
            (task.mask_consecutive_min, task.mask_consecutive_max),
            task.mask_allow_overlap,
            task.mask_bucket_ratio,
            int(in_dim * task.mask_frequency),
            task.noise_proportion,
        )
        if self.policy.unmasked and not self.policy.noise:
            raise UsageError(
                "model.task alters nothing: mask_proportion, mask_frequency and noise_proportion are all 0"
            )
        if config.transformer.input_dim not in (-1, in_dim):
            raise UsageError(
                f"model.transformer.input_dim is {config.transformer.input_dim}, and the frames have {in_dim} dims"
            )
        config.transformer.input_dim = in_dim
        self.transformer = build_transformer(config, in_dim)
        # A crop of `sequence_length` hops may have a frame more; the weights' user cuts, training never does.
        self.transformer.chunk = 0
        self.head = build_head(config, out_dim)
        self.distance = nn.functional.l1_loss if task.loss == "L1" else nn.functional.mse_loss

    def frames(self, samples: int) -> int:
        if self.input is None:
            raise UsageError("precomputed features have no samples")
        return self.input.frames(samples)

    def too_short(self, frames: int) -> bool:
        return self.policy.too_short(frames)

    def forward(self, wavs: Sequence[Tensor], share: Share) -> tuple[Tensor, Tensor]:
        x, target, lengths = self._frames(wavs)
        masks = draw(self.policy, share.lengths, x.shape[2], share.generator)
        masks = masks.rows(share.rank, share.ranks, x.shape[1])
        labels = masks.labels(lengths, target.shape[2])
        found = self.head(self.transformer.last(masks.apply(x), lengths)).float()
        distance = self.distance(found, target, reduction="none") * labels
        return distance.sum((1, 2)), labels.sum((1, 2)).float()

    def _frames(self, wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Input (B, T, D), target (B, T, D'), lengths (B,)."""
        x, lengths = pad(list(wavs)) if self.input is None else self.input(wavs)
        return x, x if self.target is None else self.target(wavs)[0], lengths

    def export(self, path: Path, facts: dict[str, Any]) -> None:
        write_model(
            path, self.upstream, self.config, self.transformer.state_dict(), self.head.state_dict(), facts=facts
        )

    @torch.no_grad()
    def picture(self, wav: Tensor) -> bytes:
        from headwater.results.plots import spectrogram_plot

        x, target, lengths = self._frames([wav])
        generator = torch.Generator(x.device).manual_seed(0)
        masks = draw(self.policy, lengths, x.shape[2], generator)
        altered = masks.apply(x)
        found = self.head(self.transformer.last(altered, lengths)).float()
        rows = {"input": x, "altered": altered, "reconstructed": found}
        if self.target is not None:
            rows["target"] = target
        return spectrogram_plot({name: row[0].cpu().numpy() for name, row in rows.items()})


def _other_target(audio: dict[str, Any]) -> bool:
    """Whether the target is another feature than the input; of which copy of the waveform they are made (`channel`) is no difference here."""
    if not isinstance(audio.get("target", {}), Mapping):
        raise UsageError(f"model.audio.target is a group of settings (feat_type: ...), not {audio['target']!r}")
    held = [
        {key: value for key, value in audio.get(name, {}).items() if key != "channel"} for name in ("input", "target")
    ]
    return "target" in audio and held[0] != held[1]
