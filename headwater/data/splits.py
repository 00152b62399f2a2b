"""Train, dev and test for corpora that do not say."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from headwater.data.corpus import SPLITS, Corpus, Utterance
from headwater.data.text import some
from headwater.errors import DataError, UsageError

Ratios = tuple[float, float, float]
RATIOS: Ratios = (0.8, 0.1, 0.1)
_SESSIONS = ("session", "chapter", "video")  # labels that name one recording session
_DEV_SHARE = 0.1


def parted_by(corpus: Corpus) -> Literal["utterance", "speaker"]:
    """What splits are made by where they should hold unseen speakers: speakers, where each split can have one of its own, else utterances."""
    return "speaker" if len(corpus.speakers()) >= len(SPLITS) else "utterance"


def ensure_splits(
    corpus: Corpus, seed: int, ratios: Ratios = RATIOS, by: Literal["utterance", "speaker"] = "utterance"
) -> Corpus:
    """The corpus with train, dev and test: its own; its own with dev cut from train; or made by `make_splits` when it
    states none. Notes say which.

    Raises
    ------
    DataError: splits are stated, but train or test is missing, or for some utterances only.
    """
    stated = corpus.splits()
    if not stated:
        return make_splits(corpus, seed, ratios, by)
    if unsplit := [utterance.id for utterance in corpus.utterances if utterance.split is None]:
        raise DataError(
            f"{corpus.name}: {len(unsplit)} of {len(corpus.utterances)} utterances have no split: {some(unsplit)}"
        )
    for split in ("train", "test"):
        if split not in stated:
            raise DataError(
                f"{corpus.name} has no {split} split (it has {', '.join(stated)}); add one, or leave the split out of the data to have all three made"
            )
    if "dev" in stated:
        return corpus
    train = corpus.split("train")
    if by == "speaker":
        speakers = _by_hash(sorted({str(utterance.speaker) for utterance in train}), seed)
        chosen = set(speakers[: max(1, round(_DEV_SHARE * len(speakers)))])
        dev = {utterance.id for utterance in train if str(utterance.speaker) in chosen}
    else:
        dev = set(_by_hash([utterance.id for utterance in train], seed)[: max(1, round(_DEV_SHARE * len(train)))])
    if len(dev) == len(train):
        raise DataError(f"{corpus.name}: the train split is too small to cut a dev split from it; add a dev split")
    utterances = (
        replace(utterance, split="dev") if utterance.id in dev else utterance for utterance in corpus.utterances
    )
    return corpus.with_utterances(
        utterances,
        f"there is no dev split: dev is {len(dev)} of {len(train)} train utterances, drawn by {by} with seed {seed}",
    )


def make_splits(
    corpus: Corpus, seed: int, ratios: Ratios = RATIOS, by: Literal["utterance", "speaker"] = "utterance"
) -> Corpus:
    """New splits, a pure function of ids, speakers, sessions and seed: neither the order of the corpus nor further
    speakers change where an utterance goes.

    Parameters
    ----------
    ratios: shares of train, dev and test.
    by: `utterance` gives each speaker with three utterances or more a part of every split (with two: of train and
        test); where such a speaker has three sessions (LibriSpeech's chapters, VoxCeleb's videos) or more, a session
        goes into one split whole. `speaker` gives each speaker to one split.

    Raises
    ------
    DataError: speakers with a single utterance (by utterance), or fewer than three speakers (by speaker).
    UsageError: ratios that are not three shares with the sum 1.
    """
    if len(ratios) != 3 or min(ratios) <= 0 or not math.isclose(sum(ratios), 1.0, abs_tol=1e-6):
        raise UsageError(f"the ratios of train, dev and test must be positive with the sum 1; they are {ratios}")
    if by == "speaker":
        split_of, note = _split_speakers(corpus, seed, ratios), "by speaker"
    elif by == "utterance":
        split_of, note = _split_utterances(corpus, seed, ratios)
    else:
        raise UsageError(f"splits are made by utterance or by speaker, not by {by!r}")
    utterances = tuple(replace(utterance, split=split_of[utterance.id]) for utterance in corpus.utterances)
    shares = "/".join(f"{100 * ratio:g}" for ratio in ratios)
    return corpus.with_utterances(utterances, f"splits are made {note} with seed {seed} (train/dev/test {shares} %)")


def _split_speakers(corpus: Corpus, seed: int, ratios: Ratios) -> dict[str, str]:
    if nameless := [utterance.id for utterance in corpus.utterances if utterance.speaker is None]:
        raise DataError(
            f"{corpus.name}: {len(nameless)} utterances have no speaker, so splits cannot be made by speaker: {some(nameless)}"
        )
    speakers = _by_hash(list(corpus.speakers()), seed)
    if len(speakers) < 3:
        raise DataError(f"{corpus.name} has {len(speakers)} speakers; three splits by speaker need three or more")
    split_of = dict(zip(speakers, _deal(len(speakers), ratios), strict=True))
    return {utterance.id: split_of[str(utterance.speaker)] for utterance in corpus.utterances}


def _split_utterances(corpus: Corpus, seed: int, ratios: Ratios) -> tuple[dict[str, str], str]:
    speakers: dict[str | None, list[Utterance]] = defaultdict(list)
    for utterance in corpus.utterances:
        speakers[utterance.speaker].append(utterance)
    if single := sorted(str(speaker) for speaker, spoken in speakers.items() if len(spoken) < 2):
        raise DataError(
            f"{corpus.name}: {len(single)} of {len(speakers)} speakers have one utterance, which cannot be in train "
            f"and in test: {some(single)}; "
            "leave them out with -o data.min_utterances=2, or give splits of your own"
        )
    split_of: dict[str, str] = {}
    whole = 0
    for spoken in speakers.values():
        sessions: dict[str, list[str]] = defaultdict(list)
        for utterance in spoken:
            session = next((utterance.labels[label] for label in _SESSIONS if utterance.labels.get(label)), None)
            sessions[utterance.id if session is None else f"session {session}"].append(utterance.id)
        by_session = len(sessions) >= 3 and len(sessions) < len(spoken)
        whole += by_session
        split_of.update(
            _split_sessions(sessions, seed, ratios)
            if by_session
            else _split_list([utterance.id for utterance in spoken], seed, ratios)
        )
    note = (
        "by utterance" if not whole else f"by utterance, sessions kept whole for {whole} of {len(speakers)} speakers,"
    )
    return split_of, note


def _split_list(ids: Sequence[str], seed: int, ratios: Ratios) -> dict[str, str]:
    return dict(zip(_by_hash(ids, seed), _deal(len(ids), ratios), strict=True))


def _split_sessions(sessions: dict[str, list[str]], seed: int, ratios: Ratios) -> dict[str, str]:
    """The largest session is train's; the others fill test, then dev up to their shares, in an order drawn by hash.
    Each split gets a session at least."""
    total = sum(map(len, sessions.values()))
    order = _by_hash(list(sessions), seed)
    largest = max(order, key=lambda session: len(sessions[session]))
    order.remove(largest)
    split_of = dict.fromkeys(sessions[largest], "train")
    for split, ratio, spare in (("test", ratios[2], 1), ("dev", ratios[1], 0)):
        filled = 0
        while len(order) > spare and (filled == 0 or filled + len(sessions[order[0]]) / 2 <= ratio * total):
            session = order.pop(0)
            filled += len(sessions[session])
            split_of.update(dict.fromkeys(sessions[session], split))
    split_of.update(dict.fromkeys((key for session in order for key in sessions[session]), "train"))
    return split_of


def _deal(count: int, ratios: Ratios) -> list[str]:
    """`count` split names in their shares, every split at least once from three on; two are test and train."""
    test = max(1, round(ratios[2] * count))
    dev = max(1, round(ratios[1] * count)) if count >= 3 else 0
    while test + dev >= count:  # train is never empty, whatever the ratios
        test, dev = (test - 1, dev) if test > dev else (test, dev - 1)
    return ["test"] * test + ["dev"] * dev + ["train"] * (count - test - dev)


def _by_hash(names: Sequence[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
