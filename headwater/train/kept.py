"""What a run keeps of its frozen features: the store, the keys of its utterances, the plan, and what the result says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headwater.config import ExtractConfig, RunConfig
from headwater.data.corpus import Utterance
from headwater.nn.upstream import Upstream
from headwater.paths import store_root
from headwater.store import Bank, Plan, Store, bank_of
from headwater.store.digests import content_key, file_digests
from headwater.store.plan import bytes_of, count_frames
from headwater.store.quality import speed
from headwater.train.feed import Feed
from headwater.train.task import Item

if TYPE_CHECKING:
    from headwater.train.parts import Prepared, Say

GIB = 2**30
WORTH_TIMING = 60.0  # seconds of audio, below which nobody waits
SAMPLED = 3  # utterances that the error of other types than float32 is measured on


def open_store(config: RunConfig, say: Say) -> Store | None:
    """The store that this run may use. None where it may not, and while fine-tuning."""
    if not config.store.cache or config.upstream.trainable:
        return None
    budget = None if config.store.budget_gib is None else config.store.budget_gib * GIB
    return Store(store_root(), budget, lambda line: say(f"features   {line}"))


def contents_of(
    items: Sequence[Item], config: RunConfig | ExtractConfig, rates: tuple[int, int], shown: bool
) -> dict[str, bytes]:
    """Utterance id -> the key of what is read: the file's content, the part, the channel, and the rates of task and upstream; of a mixture those of all files
    that it is mixed from, and how."""
    paths = [file.path for item in items for file in item.utterance.heard]
    digests = file_digests(paths, store_root() / "digests", shown=shown)

    def key(utterance: Utterance) -> bytes:
        mixture, policy = utterance.mixture, (config.data.channel, *rates)
        if mixture is not None and not mixture.stored:
            return content_key("mixture", mixture.described([digests[part.path] for part in mixture.parts]), *policy)
        piece = () if mixture is None or mixture.whole else ((mixture.first, mixture.last),)
        return content_key(digests[utterance.path], utterance.start, utterance.end, *piece, *policy)

    return {item.id: key(item.utterance) for item in items}


def bank_for(
    config: RunConfig | ExtractConfig, upstream: Upstream, device_type: str, weights_sha256: str | None
) -> Bank | None:
    return bank_of(
        upstream,
        config.upstream.config,
        config.upstream.features,
        extract_dtype=config.store.extract_dtype,
        dtype=config.store.dtype,
        device_type=device_type,
        state=weights_sha256,
    )


def plan_features(
    feed: Feed, items: Sequence[Item], rate: int, bank: Bank | None, content: Mapping[str, bytes] | None, *, shown: bool
) -> Plan:
    """What the run is about to do. The upstream's speed is measured where it matters, on a few utterances of middling length."""
    kept, upstream = feed.store, feed.upstream
    samples = [max(1, round(item.num_samples / feed.scale)) for item in items]
    count = count_frames(upstream, samples)
    size = bytes_of(upstream, kept.layers, len(items) if kept.pooled else count, kept.dtype)
    store = kept.store if bank is not None and content is not None else None
    absent = list(items)
    if store is not None and bank is not None and content is not None:
        there, frames = kept.look(store, bank, set(content.values()), shown=shown)
        absent = [item for item in items if content[item.id] not in there and content[item.id] not in frames]
    seconds = sum(item.num_samples for item in absent) / rate
    timed = sorted(absent, key=lambda item: item.num_samples)[len(absent) // 2 :][: 2 * kept.extractor.workers]
    limit = store.budget if store is not None else 0.0
    return Plan(
        count,
        size,
        kept.pooled,
        seconds,
        len(items) - len(absent),
        len(items),
        str(store.root) if store is not None else "",
        limit,
        limit + kept.memory,
        speed(kept.extractor, timed, lambda item: item.num_samples / rate) if seconds > WORTH_TIMING else None,
    )


def sample(items: Sequence[Item]) -> list[Item]:
    """A few utterances from the shortest to the longest."""
    order = sorted(items, key=lambda item: (item.num_samples, item.id))
    return [order[(2 * part + 1) * len(order) // (2 * SAMPLED)] for part in range(min(SAMPLED, len(order)))]


def section(parts: Prepared) -> dict[str, Any] | None:
    """The `features` part of `result.json`; None where the upstream was fine-tuned."""
    if parts.config.upstream.trainable:
        return None
    store, filled = parts.feed.store, parts.feed.store.filled
    names = [parts.upstream.spec.layer_names[layer] for layer in store.layers]
    return {
        "dtype": store.dtype,
        "extract_dtype": store.extract_dtype,
        "error": None if filled.error is None else dict(zip(names, filled.error, strict=True)),
        "form": "mean" if store.pooled else "frames",
        "bytes": filled.bytes,
        "cached": filled.cached,
        "computed": filled.computed,
    }


def error_note(parts: Prepared) -> str | None:
    """What a reader must know of features that are not float32 throughout."""
    kept = parts.feed.store
    if kept.filled.error is None:
        return None
    types = [f"computed in {kept.extract_dtype}"] if kept.extract_dtype != "float32" else []
    types += [f"kept in {kept.dtype}"] if kept.dtype != "float32" else []
    return f"features are {' and '.join(types)}: relative RMS error up to {100 * max(kept.filled.error):.2g} %, measured on {SAMPLED} utterances"
