"""Which utterances of a corpus are taken, and the groups (sub-folders and lists) that they are written in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from headwater.data.corpus import Corpus, Utterance, relative, split_name
from headwater.data.readers import read_corpus
from headwater.data.text import some
from headwater.data.trees import find_audio
from headwater.errors import DataError, UsageError, nearest

_TIMIT = re.compile(r"(train|dev|test)/(dr\d)/(\w+)/(\w+)", re.IGNORECASE)
WHOLE = "all"


def group_of(corpus: Corpus, utterance: Utterance) -> str:
    """The subset of a LibriSpeech tree, else the split, else `all`."""
    return utterance.labels.get("subset") or utterance.split or WHOLE


def read_groups(
    path: Path, *, reader: str = "auto", splits: Sequence[str] = (), extension: str | None = None
) -> list[tuple[Utterance, str]]:
    """Utterances of a corpus with their groups.

    Parameters
    ----------
    reader: of `read_corpus`, or `timit`. splits: the groups that are taken, or names of sub-folders, which are groups then; all without. extension: only files
    that end so.

    Raises
    ------
    UsageError: a split that is not there. DataError: what cannot be read, or nothing is left.
    """
    corpus = read_timit(path) if reader == "timit" else read_corpus(path, reader=reader)
    chosen = [(utterance, group_of(corpus, utterance)) for utterance in corpus.utterances]
    if extension:
        chosen = [
            (utterance, group) for utterance, group in chosen if utterance.path.suffix.lower() == extension.lower()
        ]
        if not chosen:
            raise DataError(f"{path} holds no audio that ends in {extension}; name another with --audio_extension")
    if not splits:
        return chosen
    groups = {group for _, group in chosen}
    if not set(splits) <= groups:
        chosen = [(utterance, relative(utterance.path, corpus.root).split("/")[0]) for utterance, _ in chosen]
    folders = {group for _, group in chosen}
    if missing := [name for name in splits if name not in folders]:
        known = sorted((groups | folders) - {""})
        raise UsageError(f"--splits {missing[0]}: {path} has {some(known, 12)}.{nearest(missing[0], known)}")
    return [(utterance, group) for utterance, group in chosen if group in splits]


def read_timit(path: Path) -> Corpus:
    """TIMIT's tree, TRAIN|TEST/DRn/SPEAKER/SENTENCE.WAV in upper or lower case. The id is SPEAKER_SENTENCE in upper case, as Kaldi has it."""
    if not path.is_dir():
        raise UsageError(f"--data_path: there is no folder {path}")
    utterances = []
    for file in find_audio(path):
        match = _TIMIT.fullmatch("/".join(file.with_suffix("").parts[-4:]))
        if match:
            split, dialect, speaker, sentence = match.groups()
            utterances.append(
                Utterance(
                    f"{speaker}_{sentence}".upper(),
                    file,
                    split=split_name(split),
                    speaker=speaker.upper(),
                    labels={"dialect": dialect.upper()},
                )
            )
    if not utterances:
        raise DataError(f"{path} holds no audio as TRAIN|TEST/DRn/SPEAKER/SENTENCE.WAV")
    return Corpus("timit", "timit", path, tuple(utterances))
