"""Corpora of mixtures: lists of what to mix, LibriMix's metadata, and folders of mixtures with their sources (WSJ0-2mix, LibriMix)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater.data.corpus import SPLITS, Corpus, Utterance, check_unique, split_name
from headwater.data.mixtures import Mixture, Part
from headwater.data.tables import Table, read_table
from headwater.data.text import find_root, read_text, some
from headwater.data.trees import AUDIO_SUFFIXES, librispeech_name
from headwater.errors import DataError, nearest

# What a column of source k is called, `k` standing for its number.
_NUMBERED = {
    "path": ("path{k}", "source{k}", "source_{k}", "source_{k}_path"),
    "gain": ("gain{k}", "source_{k}_gain"),
    "speaker": ("speaker{k}", "speaker_{k}", "speaker_{k}_ID"),
    "gender": ("gender{k}", "sex{k}", "speaker_{k}_sex"),
}
_SINGLE = {
    "id": ("mix_id", "mixture_ID", "id"),
    "mixture": ("mixture", "mixture_path", "mix_path"),
    "split": ("split",),
    "noise": ("noise_path", "noise"),
    "noise gain": ("noise_gain",),
}
_SETS = {"tr": "train", "cv": "dev", "tt": "test"}  # what WSJ0-2mix calls them
_MIXES = ("mix", "mix_clean", "mix_both")
_LIBRIMIX = re.compile(r"libri\dmix_.*\.csv")
_WSJ_MIX = re.compile(r"([0-9a-z]{8})_-?[\d.]+(?:_([0-9a-z]{8})_-?[\d.]+)+")


@dataclass(frozen=True)
class _Columns:
    """Where a list's columns are: those of each source, from the first, and those of the mixture, by what they say."""

    sources: tuple[Mapping[str, int], ...]
    single: Mapping[str, int]
    labels: Mapping[str, int]


def is_mixture_list(path: Path) -> bool:
    """Whether the header of a table names the sources of mixtures."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return False
    header = [cell.strip() for cell in re.split(r"[\t,]", read_text(path).partition("\n")[0])]
    return "path" not in header and _place(header, "path", 1) is not None


def metadata_in(folder: Path) -> list[Path]:
    """LibriMix's metadata files in a folder."""
    return sorted(file for file in folder.glob("*.csv") if _LIBRIMIX.fullmatch(file.name) and "_info" not in file.stem)


def is_mixture_tree(folder: Path) -> bool:
    """Whether a folder holds sets of mixtures, each with its sources in folders of their own."""
    return any(_mix_of(inside) is not None for inside in _sets_of(folder))


def read_mixture_list(path: Path, *, root: Path | str | None = None, name: str | None = None) -> Corpus:
    """A table of mixtures, a row each, or a folder of LibriMix's metadata.

    `mixture` (a file) and `source1`, `source2`, ...: the mixture lies on disk. `path1`, `path2`, ... and `gain1`, ...: it is mixed when it is read. LibriMix's
    names do, too; its `noise_path` is a further part. Beside them `split`, `speaker1`, `gender1` and so on, or those of its `_info` file; other columns become
    labels. A row may have fewer sources than others: its last cells are empty then.

    Raises
    ------
    DataError: file and line of what is wrong.
    """
    if path.is_dir():
        corpora = [_read(file, root, None, _split_in(file.stem)) for file in metadata_in(path)]
        utterances = [utterance for corpus in corpora for utterance in corpus.utterances]
        check_unique(utterances, [str(_where(one)) for one in utterances], "each mixture is in one file only")
        notes = [note for corpus in corpora for note in corpus.notes]
        return Corpus(name or path.name, "mixtures", corpora[0].root, tuple(utterances), tuple(notes))
    return _read(path, root, name, None)


def _read(path: Path, root: Path | str | None, name: str | None, split: str | None) -> Corpus:
    table = read_table(path)
    columns = _columns(path, table)
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in table.rows]
    base = find_root(path, [cells[columns.sources[0]["path"]] for _, cells in rows], root, f":{rows[0][0]}")
    known = _speakers(path)
    utterances = [_row(f"{path}:{number}", cells, columns, base, split, known) for number, cells in rows]
    check_unique(utterances, [f"line {number}" for number, _ in rows], f"give each row of {path} an id of its own")
    counts = sorted({len(_clean(utterance)) for utterance in utterances})
    note = f"{path.name} is read as a list of mixtures of {' and '.join(map(str, counts))} sources; paths are relative to {base}"
    return Corpus(name or path.stem, "mixtures", base, tuple(utterances), (note,))


def _columns(path: Path, table: Table) -> _Columns:
    header, sources = table.header, list[dict[str, int]]()
    while (place := _place(header, "path", len(sources) + 1)) is not None:
        number = len(sources) + 1
        others = {what: _place(header, what, number) for what in _NUMBERED}
        sources.append({"path": place, **{what: found for what, found in others.items() if found is not None}})
    single = {
        what: header.index(name) for what, names in _SINGLE.items() if (name := _first(names, header)) is not None
    }
    if len(sources) < 2:
        hint = nearest(f"path{len(sources) + 1}", header)
        raise DataError(
            f"{path}:1: there are columns of {len(sources)} source(s), and a mixture has two or more: path1,path2,... or mixture,source1,source2,...{hint}"
        )
    taken = {*single.values(), *(place for source in sources for place in source.values())}
    return _Columns(
        tuple(sources), single, {column: place for place, column in enumerate(header) if place not in taken}
    )


def _place(header: Sequence[str], what: str, number: int) -> int | None:
    found = _first([name.format(k=number) for name in _NUMBERED[what]], header)
    return None if found is None else header.index(found)


def _first(names: Iterable[str], header: Sequence[str]) -> str | None:
    return next((name for name in names if name in header), None)


def _row(
    where: str,
    cells: Sequence[str],
    columns: _Columns,
    base: Path,
    split: str | None,
    known: Mapping[str, Mapping[str, str]],
) -> Utterance:
    def cell(what: str) -> str:
        return cells[columns.single[what]] if what in columns.single else ""

    said = [{what: cells[place] for what, place in source.items()} for source in columns.sources]
    given = [source for source in said if source["path"]]
    if len(given) < 2 or any(not source["path"] for source in said[: len(given)]):
        raise DataError(
            f"{where}: {len(given)} of {len(said)} sources have a path; a mixture has the first two or more"
        )
    mixed = cell("mixture")
    if mixed and any(source.get("gain") for source in given):
        raise DataError(f"{where}: a mixture that is a file has sources as they are; leave the gains out")
    files = [base / source["path"] for source in given]
    if len({*files}) < len(files):
        raise DataError(f"{where}: one file is two of its sources; those of a mixture differ")
    name = cell("id") or (Path(mixed).stem if mixed else "_".join(file.stem for file in files))
    info = known.get(name, {})
    speakers = [
        source.get("speaker") or info.get(f"speaker{number}") or _speaker_of(file)
        for number, (source, file) in enumerate(zip(given, files, strict=True), start=1)
    ]
    parts = [
        Part(file, gain=_gain(where, source.get("gain", "")), speaker=speaker)
        for file, source, speaker in zip(files, given, speakers, strict=True)
    ]
    if noise := cell("noise"):
        parts.append(Part(base / noise, gain=_gain(where, cell("noise gain")), noise=True))
    if "split" in columns.single and (split := split_name(cell("split"))) is None:
        word = cell("split")
        raise DataError(
            f"{where}: {word!r} is not a split; the splits are {', '.join(SPLITS)}.{nearest(word.lower(), list(SPLITS))}"
        )
    labels = {column: cells[place] for column, place in columns.labels.items()}
    genders = [source.get("gender") or info.get(f"gender{number}", "") for number, source in enumerate(given, start=1)]
    if "genders" not in labels and all(genders):
        labels["genders"] = "".join(gender[0].upper() for gender in genders)
    mixture = Mixture(tuple(parts), stored=bool(mixed), where=where)
    return Utterance(name, base / mixed if mixed else files[0], split=split, labels=labels, mixture=mixture)


def _gain(where: str, cell: str) -> float:
    try:
        value = float(cell or 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value == 0:
        raise DataError(f"{where}: the gain {cell!r} is no number that a sound can be multiplied by")
    return value


def _speakers(path: Path) -> dict[str, dict[str, str]]:
    """Who speaks in which mixture: of LibriMix's `_info` file beside its metadata, where there is one. It writes ids as `4077.0`."""
    beside = sorted(path.parent.glob("*_info*.csv"))
    file = next((file for file in beside if file.name.replace("_info", "", 1) == path.name), None)
    if file is None:
        return {}
    table = read_table(file)
    if "mixture_ID" not in table.header:
        raise DataError(f"{file}:1: there is no column mixture_ID; it should say who speaks in the mixtures of {path}")
    found: dict[str, dict[str, str]] = {}
    for _, cells in table.rows:
        row = dict(zip(table.header, map(str.strip, cells), strict=True))
        said = {
            f"{what}{number}": row[name].removesuffix(".0")
            for what in ("speaker", "gender")
            for number in range(1, len(row))
            for name in [_first([form.format(k=number) for form in _NUMBERED[what]], table.header)]
            if name is not None
        }
        found[row["mixture_ID"]] = said
    return found


def _speaker_of(file: Path) -> str | None:
    """Who speaks in a file of LibriSpeech."""
    name = librispeech_name(file)
    return None if name is None else name[1]


def _split_in(stem: str) -> str | None:
    """The split in the name of a metadata file: `libri2mix_train-clean-100` is of train."""
    return next((split for word in re.split(r"[_-]", stem) if (split := split_name(word)) is not None), None)


def _clean(utterance: Utterance) -> list[Part]:
    assert utterance.mixture is not None
    return [part for part in utterance.mixture.parts if not part.noise]


def _where(utterance: Utterance) -> str | None:
    return None if utterance.mixture is None else utterance.mixture.where


def read_mixture_tree(folder: Path, name: str | None = None) -> Corpus:
    """`{tr,cv,tt}/{mix,s1,s2,...}/NAME.wav` as WSJ0-2mix has it, or `{train-100,dev,test}/{mix_clean,s1,s2,...}/NAME.wav` as LibriMix writes it.

    Of LibriMix `mix_clean` is taken; without it `mix_both`, with its `noise`.

    Raises
    ------
    DataError: a mixture lacks one of its sources, or there are fewer than two folders of them.
    """
    utterances, notes = list[Utterance](), list[str]()
    for inside in _sets_of(folder):
        mix = _mix_of(inside)
        if mix is None:
            continue
        sources = sorted(place for place in inside.glob("s[0-9]") if place.is_dir())
        if len(sources) < 2:
            raise DataError(f"{inside} holds {mix} and {len(sources)} of the folders s1, s2, ... of its sources")
        noise = [inside / "noise"] if mix == "mix_both" and (inside / "noise").is_dir() else []
        files = sorted(file for file in (inside / mix).iterdir() if file.suffix.lower() in AUDIO_SUFFIXES)
        utterances += [_stored(file, sources, noise, _set(inside.name)) for file in files]
        notes.append(f"{inside.name} is {_set(inside.name)}: {len(files)} mixtures ({mix}) of {len(sources)} sources")
    check_unique(utterances, [str(utterance.path) for utterance in utterances], "each name may be in one set only")
    return Corpus(name or folder.name, "mixtures", folder, tuple(utterances), tuple(notes))


def _stored(file: Path, sources: Sequence[Path], noise: Sequence[Path], split: str | None) -> Utterance:
    places = [place / file.name for place in (*sources, *noise)]
    if missing := [place for place in places if not place.is_file()]:
        raise DataError(f"{file} is a mixture, and {some(missing)} is missing: its sources have its name")
    speakers = _speakers_in(file.stem, len(sources))
    parts = [Part(place, speaker=speaker) for place, speaker in zip(places, speakers, strict=False)]
    parts += [Part(place, noise=True) for place in places[len(sources) :]]
    return Utterance(file.stem, file, split=split, mixture=Mixture(tuple(parts), stored=True, where=str(file)))


def _speakers_in(stem: str, count: int) -> list[str | None]:
    """Who speaks, by the name of a mixture: `019o031a_0.27588_01vo030q_-0.27588` of WSJ0, `4077-13754-0001_5142-33396-0065` of LibriSpeech."""
    if _WSJ_MIX.fullmatch(stem):
        return list[str | None](utterance[:3] for utterance in stem.split("_")[::2])[:count]
    names = stem.split("_")
    if len(names) == count and all(re.fullmatch(r"\d+-\d+-\d+", one) for one in names):
        return list[str | None](one.partition("-")[0] for one in names)
    return [None] * count


def _sets_of(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and _set(place.name) is not None)


def _set(word: str) -> str | None:
    return _SETS.get(word) or split_name(word.partition("-")[0])


def _mix_of(folder: Path) -> str | None:
    return next((mix for mix in _MIXES if (folder / mix).is_dir() and (folder / "s1").is_dir()), None)


__all__ = ["is_mixture_list", "is_mixture_tree", "metadata_in", "read_mixture_list", "read_mixture_tree"]
