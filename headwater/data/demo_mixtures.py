"""Demo mixtures: two or more speakers of the demo corpus at a time, mixed when they are read. Their numbers say nothing about human speech."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.data import demo_recipe as recipe

if TYPE_CHECKING:
    from headwater.data.corpus import Corpus

# Of six vocal tracts of each gender, each of them two speakers, in the order of the recipe.
TRACTS = {"train": slice(0, 3), "dev": slice(3, 4), "test": slice(4, 6)}


def demo_speakers() -> dict[str, list[str]]:
    """Who is heard in which split: splits share no vocal tract, and so no speaker."""
    tracts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for voice in recipe.VOICES:
        tracts[voice.gender][voice.variant].append(voice.speaker)
    return {
        split: sorted(
            speaker for variants in tracts.values() for pair in list(variants.values())[part] for speaker in pair
        )
        for split, part in TRACTS.items()
    }


def demo_voices(cache: Path | str | None = None) -> Corpus:
    """Single speakers of the demo corpus whose splits have neither a speaker nor a sentence in common: what demo mixtures are made of.

    Raises `UsageError` as `demo_corpus` does.
    """
    from headwater.data.demo import demo_corpus

    corpus, speakers = demo_corpus(cache), demo_speakers()
    kept = [one for one in corpus.utterances if one.split is not None and one.speaker in speakers[one.split]]
    return corpus.with_utterances(kept)
