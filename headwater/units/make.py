"""Units of a corpus: clusters fitted to a sample of its frames, or those of another folder; the number of each frame's; what they know of phones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import headwater
from headwater.config import DataConfig, UpstreamConfig
from headwater.data.corpus import Utterance
from headwater.data.features import common_features
from headwater.data.labels import SAMPLE_RATE, FrameLabels, label_centres, read_frame_labels
from headwater.errors import DataError, UsageError, nearest
from headwater.loading import load_upstream
from headwater.nn.lengths import frame_index
from headwater.nn.upstream import Upstream
from headwater.progress import bar
from headwater.store.features import FrozenFeatures
from headwater.train.corpora import Measured, measured, read_utterance
from headwater.train.pretrain import read_any
from headwater.train.runner import versions
from headwater.units.folder import read_about, read_centres, write_units
from headwater.units.kmeans import assign, kmeans
from headwater.units.measures import measure, to_json
from headwater.weights import state_sha256

_FRAMES = 0x0F17  # names the generator


@dataclass(frozen=True)
class Wish:
    """What units are wanted.

    layer: of the hidden states, from the end where it is negative. clusters: how many. frames: at most so many are clustered, drawn evenly from all speech.
    centres: a folder of units whose clusters are taken in the place of new ones. fit, score: the splits that are clustered, and measured against labels;
    None for train and test, or all where the corpus states no such. memory: bytes of features that may be held.
    """

    upstream: UpstreamConfig
    data: DataConfig
    layer: int = -1
    clusters: int = 100
    frames: int = 200_000
    centres: Path | None = None
    fit: str | None = None
    score: str | None = None
    seed: int = 1337
    memory: float = 4.0 * 2**30


def make_units(wish: Wish, folder: Path, *, device: torch.device, say: Callable[[str], object]) -> dict[str, Any]:
    """Make the folder; what `units.json` says.

    Raises:
        UsageError: no such upstream, layer or setting; or centres of another source.
        DataError: the corpus cannot be read, is too small, or lacks labels of an utterance.
    """
    chosen = wish.upstream
    upstream = load_upstream(chosen.name, ckpt=chosen.ckpt, config=chosen.config, device=str(device))
    corpus = read_any(wish.data)
    features = common_features(utterance.path for utterance in corpus.utterances)
    upstream.take_features(features)
    if not -upstream.num_layers <= wish.layer < upstream.num_layers:
        raise UsageError(f"-l {wish.layer}: {upstream.name} has the layers 0 to {upstream.num_layers - 1}")
    layer = wish.layer % upstream.num_layers
    rate = upstream.sample_rate
    parts = measured(corpus, wish.data.model_copy(update={"splits": "whole"}), seed=wish.seed, rate=rate, needed=())
    fit, score = _split("--fit", wish.fit, "train", parts), _split("--split", wish.score, "test", parts)
    lengths = {utterance.id: samples for part in parts.splits.values() for utterance, samples in part}
    utterances = [utterance for part in parts.splits.values() for utterance, _ in part]
    source = {
        "upstream": upstream.name,
        "weights_sha256": state_sha256(upstream),
        "settings": chosen.config,
        "layer": layer,
        "layer_name": upstream.layer_names[layer],
    }
    for note in parts.notes:
        say(f"data       {note}")
    say(f"upstream   {upstream.name}, layer {layer} ({source['layer_name']}); {len(utterances)} utterances")
    frozen: FrozenFeatures[Utterance] = FrozenFeatures(
        upstream,
        (layer,),
        lambda utterance: read_utterance(utterance, wish.data, rate),
        memory=wish.memory,
        device=device,
    )
    with bar(total=len(utterances), what="features", unit="utterance") as counter:
        frozen.fill(utterances, counter.update)
    if wish.centres is not None:
        centres, fitted = _given(wish, source, upstream), read_about(wish.centres).get("fit", {})
    else:
        sample = [one for one in utterances if fit in (None, one.split)]
        x = _sample(frozen, sample, lengths, wish)
        found = kmeans(x, wish.clusters, seed=wish.seed)
        centres = found.centres
        spread = float((x - x.mean(0)).square().sum(1).mean())
        fitted = {
            "split": fit or "all",
            "utterances": len(sample),
            "frames": len(x),
            "steps": found.steps,
            "inertia": found.inertia,
            "explained": 1 - found.inertia / spread if spread > 0 else 1.0,
            "seed": wish.seed,
        }
        say(
            f"clusters   {wish.clusters} of {len(x)} frames ({fitted['split']}): {found.steps} steps, {fitted['explained']:.3f} of the variance explained"
        )
    of = _codes(frozen, utterances, centres.to(frozen.device))
    about: dict[str, Any] = {
        "sample_rate": rate,
        "stride": upstream.stride,
        "offset": upstream.offset,
        "source": source,
        "fit": fitted,
        "used": len(np.unique(np.concatenate(list(of.values())))),
        "data": parts.describe(wish.data.path, rate),
        "versions": {"headwater": headwater.__version__, **versions(device)},
        "notes": parts.notes,
    }
    labels = _labels(wish.data, lengths if rate == SAMPLE_RATE else {})
    if labels is not None:
        about["phones"] = _against(labels, of, parts, replace(wish, score=score), upstream, len(centres))
    write_units(folder, of, centres.cpu(), about)
    return about


def _given(wish: Wish, source: dict[str, Any], upstream: Upstream) -> Tensor:
    """The centres of another folder. `UsageError` where they are of something else."""
    assert wish.centres is not None
    theirs, centres = read_about(wish.centres)["source"], read_centres(wish.centres)
    wrong = [key for key in ("upstream", "weights_sha256", "settings", "layer") if theirs.get(key) != source[key]]
    if wrong:
        raise UsageError(
            f"--centres {wish.centres}: its clusters are of {theirs.get('upstream')!r}, layer {theirs.get('layer')}; {', '.join(wrong)} differ here"
        )
    dim = upstream.layer_dims[source["layer"]]
    if centres.shape[1] != dim or not bool(torch.isfinite(centres).all()):
        raise DataError(f"{wish.centres}: its centres are not of {dim} dims")
    return centres


def _sample(
    frozen: FrozenFeatures[Utterance], utterances: Sequence[Utterance], lengths: Mapping[str, int], wish: Wish
) -> Tensor:
    """About `wish.frames` frames (N, D), the same share of each utterance, drawn by the seed."""
    total = sum(frozen.upstream.frames(lengths[utterance.id]) for utterance in utterances)
    share, rows = min(1.0, wish.frames / max(total, 1)), []
    for number, ((state,), _) in enumerate(frozen.batches([[utterance] for utterance in utterances])):
        generator = np.random.default_rng([wish.seed, _FRAMES, number])
        count = len(state[0]) if share == 1.0 else int(share * len(state[0]) + generator.random())
        chosen = np.sort(generator.permutation(len(state[0]))[:count])
        rows.append(state[0, torch.from_numpy(chosen).to(state.device)])
    return torch.cat(rows)


def _codes(
    frozen: FrozenFeatures[Utterance], utterances: Sequence[Utterance], centres: Tensor
) -> dict[str, np.ndarray]:
    with bar(total=len(utterances), what="units", unit="utterance") as counter:
        found = {}
        stream = frozen.batches([[utterance] for utterance in utterances])
        for utterance, ((state,), _) in zip(utterances, stream, strict=True):
            found[utterance.id] = assign(state[0], centres)[0].cpu().numpy()
            counter.update()
    return found


def _labels(data: DataConfig, lengths: dict[str, int]) -> FrameLabels | None:
    if data.labels is not None:
        return read_frame_labels(data.labels, num_samples=lengths or None)
    if data.path is not None:
        return None
    from headwater.data.demo import demo_labels

    return demo_labels()


def _split(flag: str, asked: str | None, usual: str, parts: Measured) -> str | None:
    """The split that is meant, None for all. `UsageError` for one that was asked for and is not there."""
    known = [name for name, part in parts.splits.items() if part]
    if asked is None:
        return usual if usual in known else None
    if asked not in known:
        raise UsageError(f"{flag} {asked}: the corpus has {', '.join(known)}.{nearest(asked, known)}")
    return asked


def _against(
    labels: FrameLabels, of: dict[str, np.ndarray], parts: Measured, wish: Wish, upstream: Upstream, clusters: int
) -> dict[str, Any]:
    """The measures on the split that is scored (None is all): at every label the unit nearest in time."""
    scored = [one for name, part in parts.splits.items() if wish.score in (None, name) for one, _ in part]
    missing = [one.id for one in scored if one.id not in labels.labels]
    if missing:
        raise DataError(
            f"{wish.data.labels}: no labels for {len(missing)} of {len(scored)} utterances, the first is {missing[0]!r}; "
            "labels are found by utterance id (the file's stem)"
        )
    units, phones = {}, {}
    for one in scored:
        values = labels.labels[one.id].astype(np.int64)
        # In samples at the upstream's rate, doubled, as the centre of a frame may lie between two.
        centres = torch.from_numpy(2 * label_centres(len(values)) * upstream.sample_rate // SAMPLE_RATE)[None]
        row = of[one.id].astype(np.int64)
        index = frame_index(centres, torch.tensor([len(row)]), 2 * upstream.stride, 2 * upstream.offset)[0]
        units[one.id], phones[one.id] = row[index.numpy()], values
    speakers = {one.id: one.speaker for one in scored}
    found = measure(units, phones, speakers, (clusters, labels.num_classes), seed=wish.seed)
    return {
        "split": wish.score or "all",
        "utterances": len(scored),
        "frames": sum(map(len, phones.values())),
        "classes": labels.num_classes,
        "metrics": to_json(found),
    }
