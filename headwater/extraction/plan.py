"""What is to be extracted, and how it is cut: the same plan in every process that asks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from headwater.config import ExtractConfig
from headwater.data.corpus import Corpus, drop_small_speakers
from headwater.data.demo import demo_corpus
from headwater.data.measure import measure
from headwater.errors import DataError
from headwater.extraction.work import Left, Part
from headwater.loading import load_upstream
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import Upstream
from headwater.store import Bank
from headwater.store.plan import bytes_of, count_frames, plan_shards
from headwater.store.store import Index
from headwater.train.corpora import load_corpus, spread
from headwater.train.kept import bank_for, contents_of
from headwater.train.parts import settle_features
from headwater.train.task import Item
from headwater.weights import state_sha256


@dataclass
class Subject:
    """An upstream and the utterances that it is to be computed on. left_out: what headers say cannot be used."""

    config: ExtractConfig
    upstream: Upstream
    featurizer: Featurizer
    corpus: Corpus
    items: list[Item]
    weights_sha256: str | None
    bank: Bank | None
    left_out: list[Left] = field(default_factory=list)

    @property
    def layers(self) -> tuple[int, ...]:
        return self.featurizer.layers

    def seconds(self, item: Item) -> float:
        return item.num_samples / self.config.sample_rate

    def num_bytes(self, items: Sequence[Item]) -> int:
        """Of what is to be written of these."""
        rows = len(items) if self.config.pooled else self.frames(items)
        return bytes_of(self.upstream, self.layers, rows, self.config.store.dtype)

    def frames(self, items: Sequence[Item]) -> int:
        """As many as the upstream gives."""
        scale = self.upstream.sample_rate / self.config.sample_rate
        return count_frames(self.upstream, [max(1, round(item.num_samples * scale)) for item in items])

    def contents(self, items: Sequence[Item], *, shown: bool) -> dict[str, bytes]:
        """The key of each, as an evaluation knows it."""
        return contents_of(items, self.config, (self.config.sample_rate, self.upstream.sample_rate), shown)

    def facts(self) -> dict[str, Any]:
        """What plain files must say of their making, in JSON. Two extractions that differ in it do not share a folder."""
        config, card = self.config, self.upstream.card
        assert card is not None
        return {
            "schema": 1,
            "upstream": {
                "name": card.name,
                "weights_sha256": self.weights_sha256,
                "weights_file": self.upstream.weight_file,
                "settings": config.upstream.config,
            },
            "card": card.model_dump(
                mode="json", include={"summary", "paper", "short_input", "long_input", "warning", "config"}
            ),
            "bank": self.bank.fingerprint if self.bank is not None else None,
            "layers": [
                {"number": number, "name": self.upstream.layer_names[number], "dim": self.upstream.layer_dims[number]}
                for number in self.layers
            ],
            "sample_rate": self.upstream.sample_rate,
            "stride": self.upstream.stride,
            "offset": self.upstream.offset,
            "pooled": config.pooled,
            "dtype": config.store.dtype,
            "extract_dtype": config.store.extract_dtype,
            "corpus": self.corpus.name,
            "reading": {
                "sample_rate": config.sample_rate,
                "channel": config.data.channel,
                "resample": config.data.resample,
            },
        }


def find(config: ExtractConfig, *, device: torch.device, device_type: str, say: Callable[[str], None]) -> Subject:
    """Load the upstream and read the corpus.

    device: the upstream's in this process; device_type: of those that will compute. `DataError` for bad audio, as far as headers tell, unless it is skipped.
    """
    named = config.upstream
    upstream = load_upstream(named.name, ckpt=named.ckpt, config=named.config, device=str(device))
    corpus = choose(drop_small_speakers(load_corpus(config.data, demo_corpus), config.data.min_utterances), config)
    for note in corpus.notes:
        say(f"data       {note}")
    good, samples, left_out = measure(
        corpus.utterances,
        sample_rate=config.sample_rate,
        resample=config.data.resample,
        channel=config.data.channel,
        skip_bad=config.data.skip_bad_audio,
        decode=False,
    )
    items = [Item(utterance, int(count)) for utterance, count in zip(good, samples, strict=True)]
    settle_features(config, upstream, {"all": items})
    featurizer = Featurizer(upstream.spec, named.selection, named.layer)
    weights = state_sha256(upstream)
    bank = bank_for(config, upstream, device_type, weights)
    return Subject(config, upstream, featurizer, corpus, items, weights, bank, left_out)


def choose(corpus: Corpus, config: ExtractConfig) -> Corpus:
    """The splits and the number of utterances that are asked for."""
    stated = corpus.splits()
    for split in config.splits:
        if split not in stated:
            has = f"it has {', '.join(stated)}" if stated else "it states none, so leave out --split"
            raise DataError(f"{corpus.name} has no split {split!r}; {has}")
    wanted = [[one for one in corpus.utterances if one.split == split] for split in dict.fromkeys(config.splits)] or [
        [one for one in corpus.utterances if one.split == split] for split in (*stated, None)
    ]
    chosen = corpus.with_utterances([one for part in wanted for one in spread(part, config.data.limit)])
    if not chosen.utterances:
        raise DataError(f"{corpus.name} holds no utterances")
    return chosen


def cut(subject: Subject, content: dict[str, bytes] | None, layers: Sequence[int], names: dict[str, str]) -> list[Part]:
    """The whole plan. content: of every item, where a shard of the store holds each content once; None for plain files, of which every item has its own."""
    items, config = subject.items, subject.config
    keys = [content[item.id] for item in items] if content is not None else [_id_key(item.id) for item in items]
    durations = [subject.seconds(item) for item in items]
    rate = subject.num_bytes(items) / max(sum(durations), 1e-9)
    places = plan_shards(keys, durations, rate, max_bytes=config.shard.mib * 2**20, max_seconds=config.shard.seconds)
    return [
        Part(
            number,
            tuple(items[place] for place in part),
            tuple(keys[place] for place in part),
            tuple(layers),
            tuple(names[items[place].id] for place in part) if names else (),
        )
        for number, part in enumerate(places)
    ]


def lacking(part: Part, missing: Collection[bytes], index: Index) -> Part | None:
    """What of a part is missing, in those layers that the store does not hold; None where nothing is."""
    absent = [place for place, key in enumerate(part.keys) if key in missing]
    if not absent:
        return None
    keys = tuple(part.keys[place] for place in absent)
    layers = tuple(sorted({layer for key in keys for layer in index.lacks(key)}))
    return Part(part.number, tuple(part.items[place] for place in absent), keys, layers)


def _id_key(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16]
