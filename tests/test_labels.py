"""Frame labels: CPC files, .lab files, TextGrids, and where in time a label lies."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from corpora import CLASSES, make_corpus, make_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data.labels import label_centres, num_labels, read_frame_labels
from headwater.data.measure import measure
from headwater.data.readers import read_corpus
from headwater.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real speech is not at {SHARED}")

Rows = list[tuple[float, float, str]]


def long_textgrid(rows: Rows, xmax: float, tier: str = "phones") -> str:
    """As Praat writes it, with a point tier and a word tier before the one asked for."""
    intervals = "".join(
        f'        intervals [{number}]:\n            xmin = {start} \n            xmax = {end} \n            text = "{text.replace(chr(34), chr(34) * 2)}" \n'
        for number, (start, end, text) in enumerate(rows, start=1)
    )
    return (
        f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = {xmax} \ntiers? <exists> \nsize = '
        "3 \nitem []: \n"
        '    item [1]:\n        class = "TextTier" \n        name = "events" \n        xmin = 0 \n        xmax = '
        f"{xmax} \n        points: size = 1 \n"
        f'        points [1]:\n            number = 0.1 \n            mark = "a ""click"" 7" \n'
        '    item [2]:\n        class = "IntervalTier" \n        name = "words" \n        xmin = 0 \n        xmax = '
        f"{xmax} \n"
        f"        intervals: size = 1 \n        intervals [1]:\n            xmin = 0 \n            xmax = {xmax} \n  "
        '          text = "word 1 2" \n'
        f'    item [3]:\n        class = "IntervalTier" \n        name = "{tier}" \n        xmin = 0 \n        xmax '
        f"= {xmax} \n"
        f"        intervals: size = {len(rows)} \n{intervals}"
    )


def short_textgrid(rows: Rows, xmax: float) -> str:
    intervals = "".join(f'{start}\n{end}\n"{text}"\n' for start, end, text in rows)
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n{xmax}\n<exists>\n1\n'
    return f'{head}"IntervalTier"\n"phones"\n0\n{xmax}\n{len(rows)}\n{intervals}'


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


ROWS: Rows = [(0, 0.1, ""), (0.1, 0.25, "AH0"), (0.25, 0.4, "B"), (0.4, 0.5, "sil")]


def names_at(labels) -> list[str]:
    """Names of the only utterance's labels."""
    (values,) = labels.labels.values()
    return [labels.classes[value] for value in values]


# Time


@given(st.integers(0, 10_000))
def test_labels_are_as_many_as_25_ms_windows_fit(num_samples):
    windows = [start for start in range(0, num_samples, 160) if start + 400 <= num_samples]
    assert num_labels(num_samples) == len(windows)
    assert label_centres(len(windows)).tolist() == [start + 200 for start in windows]


@settings(deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(1, 199), unique=True, min_size=1, max_size=20), num_samples=st.integers(400, 16000))
def test_a_label_is_the_interval_around_its_centre(cuts, num_samples, tmp_path_factory):
    """Cuts on a grid of 2.5 ms fall on label centres too: there the later interval counts."""
    times = [0, *sorted(cuts), 200]
    rows = [(start / 400, end / 400, f"p{start}") for start, end in itertools.pairwise(times)]
    path = write(
        tmp_path_factory.mktemp("lab") / "u.lab", "".join(f"{start} {end} {name}\n" for start, end, name in rows)
    )
    labels = read_frame_labels(path, num_samples={"u": num_samples})
    expected = []
    for label in range(num_labels(num_samples)):
        quarter = 5 + 4 * label  # the centre on the grid of 2.5 ms
        inside = [start for start, end in itertools.pairwise(times) if start <= quarter < end]
        expected.append(f"p{inside[0]}" if inside else "SIL")
    assert names_at(labels) == expected


def test_class_files_and_made_labels_fit_the_made_audio(tmp_path):
    path, corpus = (
        make_labels(tmp_path, speakers=2, utterances=3),
        read_corpus(make_corpus(tmp_path, "csv", speakers=2, utterances=3)),
    )
    labels = read_frame_labels(path)
    assert labels.classes == CLASSES
    assert (labels.hop, labels.centre) == (0.010, 0.0125)
    _, lengths, _ = measure(corpus.utterances)
    assert [len(labels.labels[utterance.id]) for utterance in corpus.utterances] == [
        num_labels(int(length)) for length in lengths
    ]
    assert all(values.dtype == np.int16 for values in labels.labels.values())


# CPC form


def test_cpc_form_has_any_number_of_classes_with_or_without_names(tmp_path):
    path = write(tmp_path / "labels.txt", "a 0 1 700\nb 3\n")
    labels = read_frame_labels(path)
    assert labels.classes is None
    assert labels.num_classes == 701
    assert labels.labels["a"].tolist() == [0, 1, 700]
    names = write(tmp_path / "classes.txt", "".join(f"{index} n{index}\n" for index in range(800)))
    assert read_frame_labels(path).num_classes == 800
    assert "classes.txt" in read_frame_labels(path).notes[0]
    write(names, "broken")
    assert read_frame_labels(path, classes=[f"n{index}" for index in range(701)]).num_classes == 701


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("a 0 1\nb\n", [":2", "'b'", "no labels"]),
        ("a 0 1\nb 0 x 1\n", [":2", "'x'"]),
        ("a 0 1\nb 0 1.5\n", [":2", "'1.5'"]),
        ("a 0 1\nb 0 -1\n", [":2", "-1"]),
        ("a 0 99999999999999999999\n", [":1", "99999999999999999999"]),
        ("a 0 40000\n", [":1", "40000"]),
        ("a 0 1\n\na 0\n", [":3", "earlier line"]),
        (b"a 0 1\n\xff\xfe 0\n", [":2", "UTF-8"]),
    ],
)
def test_a_bad_cpc_file_is_refused_with_its_line(text, words, tmp_path):
    with pytest.raises(DataError) as caught:
        read_frame_labels(write(tmp_path / "labels.txt", text))
    assert all(word in str(caught.value) for word in ["labels.txt", *words])


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("0 SIL\n1 AA\n", ["labels.txt:1", "0 to 1"]),
        ("0 SIL\n2 AA\n", ["0, 2"]),
        ("0 A\n0 B\n", [":2", "repeats"]),
        ("0 A B\n", [":1", "INDEX NAME"]),
    ],
)
def test_class_names_that_do_not_fit_are_refused(classes, words, tmp_path):
    write(tmp_path / "phone_classes.txt", classes)
    with pytest.raises(DataError) as caught:
        read_frame_labels(write(tmp_path / "labels.txt", "a 0 2\n"))
    assert all(word in str(caught.value) for word in words)


def test_missing_labels_say_what_may_be_given(tmp_path):
    with pytest.raises(UsageError, match=r"CPC form"):
        read_frame_labels(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"no .lab and no .TextGrid"):
        read_frame_labels(tmp_path)


# Intervals


@pytest.mark.parametrize("unit", ["seconds", "htk"])
def test_lab_times_are_seconds_or_htk_units_by_their_size(unit, tmp_path):
    rows = [
        (f"{start}", f"{end}") if unit == "seconds" else (f"{start * 1e7:.0f}", f"{end * 1e7:.0f}")
        for start, end, _ in ROWS
    ]
    text = "".join(f"{start} {end} {name}\n" for (start, end), (_, _, name) in zip(rows, ROWS, strict=True))
    labels = read_frame_labels(write(tmp_path / "u.lab", text))
    assert labels.classes == ("SIL", "AH", "B")
    # Label k lies at 12.5 + 10 k ms: 9 before 0.1 s, 15 before 0.25 s, 15 before 0.4 s; 8000 samples carry 48.
    assert names_at(labels) == ["SIL"] * 9 + ["AH"] * 15 + ["B"] * 15 + ["SIL"] * 9


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom"])
@pytest.mark.parametrize("form", [long_textgrid, short_textgrid])
def test_textgrids_of_both_forms_and_all_encodings_are_one(form, encoding, tmp_path):
    rows = [*ROWS[:2], (0.25, 0.4, "ɡ"), ROWS[3]]
    text = form(rows, 0.5)
    data = (
        "\ufeff".encode("utf-16-be") + text.encode("utf-16-be")
        if encoding == "utf-16-be-bom"
        else text.encode(encoding)
    )
    labels = read_frame_labels(write(tmp_path / "u.TextGrid", data))
    assert labels.classes == ("SIL", "AH", "ɡ")
    assert names_at(labels) == ["SIL"] * 9 + ["AH"] * 15 + ["ɡ"] * 15 + ["SIL"] * 9


def test_tier_stress_length_and_classes_can_be_chosen(tmp_path):
    path = write(tmp_path / "u.TextGrid", long_textgrid([*ROWS, (0.5, 0.6, "a1")], 0.6, tier="phone"))
    labels = read_frame_labels(path, tier="phone", strip_stress=False, num_samples={"u": 16000})
    assert labels.classes == ("SIL", "AH0", "B", "a1")
    assert len(names_at(labels)) == 98
    assert read_frame_labels(path, tier="phone").classes == ("SIL", "AH", "B", "a1")  # a tone of Mandarin is no stress
    given_classes = ("B", "SIL", "AH", "a1")
    assert set(names_at(read_frame_labels(path, tier="phone", classes=given_classes))) == {"SIL", "AH", "B", "a1"}
    with pytest.raises(DataError, match=r"u.TextGrid:\d+: 'B' is not one of the 3 classes"):
        read_frame_labels(path, tier="phone", classes=("SIL", "AH", "a1"))
    with pytest.raises(
        DataError,
        match=r"no interval tier 'phones'.*events \(TextTier\), words \(IntervalTier\), phone \(IntervalTier\)",
    ):
        read_frame_labels(path)


def test_a_folder_is_read_wholly_and_time_without_a_name_is_silence(tmp_path):
    write(tmp_path / "x" / "one.lab", "0.1 0.2 B\n0.3 0.4 D\n")
    write(tmp_path / "two.TextGrid", short_textgrid([(0, 0.1, "A")], 0.1))
    labels = read_frame_labels(tmp_path)
    assert sorted(labels.labels) == ["one", "two"]
    assert labels.classes == ("SIL", "A", "B", "D")
    assert [labels.classes[value] for value in labels.labels["one"][[0, 9, 19, 29]]] == ["SIL", "B", "SIL", "D"]
    write(tmp_path / "y" / "one.lab", "0 1 B\n")
    with pytest.raises(DataError, match=r"one has two label files"):
        read_frame_labels(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("u.lab", "", ["empty"]),
        ("u.lab", "0 0.1 A\n0.1 B\n", [":2", "0.1 B"]),
        ("u.lab", "0 0.2 A\n0.1 0.3 B\n", [":2", "before the end of 'A'"]),
        ("u.lab", "0.2 0.1 A\n", [":1", "0.2 s to 0.1 s"]),
        ("u.TextGrid", "0 1 A\n", [":1", "no TextGrid"]),
        ("u.TextGrid", short_textgrid(ROWS, 0.5)[:-8], ["cut short"]),
        ("u.TextGrid", short_textgrid(ROWS, 0.5).replace('"B"', "B"), [":", "text"]),
        ("u.TextGrid", short_textgrid(ROWS, 0.5).replace("\n4\n", "\n4.5\n"), [":12", "4.5 is not a count"]),
        ("u.TextGrid", b'File type = "ooTextFile"\xff', ["neither UTF-8 nor UTF-16"]),
    ],
)
def test_a_bad_interval_file_is_refused_with_its_line(name, text, words, tmp_path):
    with pytest.raises(DataError) as caught:
        read_frame_labels(write(tmp_path / name, text))
    assert all(word in str(caught.value) for word in [name, *words])


# Real labels


@needs_shared
def test_real_labels_are_as_many_as_the_audio_has_windows():
    labels = read_frame_labels(SHARED / "phones_librispeech" / "aligned_phones_10ms.txt")
    assert labels.num_classes == 41
    assert labels.classes[0] == "SIL"
    assert sum(map(len, labels.labels.values())) == 129_195
    utterances, lengths, _ = measure(read_corpus(SHARED / "LibriSpeech" / "test-clean").utterances)
    assert {utterance.id: num_labels(int(length)) for utterance, length in zip(utterances, lengths, strict=True)} == {
        name: len(values) for name, values in labels.labels.items()
    }
    reference = read_frame_labels(SHARED / "phones_librispeech" / "cpc_reference_2utts.txt")
    assert {name: len(values) for name, values in reference.labels.items()} == {
        "4051-11218-0044": 1119,
        "2911-12359-0007": 508,
    }


@needs_shared
def test_real_textgrids_hold_the_real_labels():
    """The aligner's frame k is written as the interval from 0.010 k on, and as label k: in time the label is 12.5 ms
    later, which is one label."""
    file = read_frame_labels(SHARED / "phones_librispeech" / "aligned_phones_10ms.txt")
    grids = read_frame_labels(SHARED / "phones_librispeech" / "textgrid", classes=file.classes)
    assert len(grids.labels) == 5
    for name, values in grids.labels.items():
        assert np.array_equal(values[:-1], file.labels[name][1 : len(values)])


@needs_shared
def test_real_alignments_of_ljspeech_are_read():
    grids = read_frame_labels(SHARED / "ljspeech_mfa" / "TextGrid")
    assert len(grids.labels) == 7
    assert grids.classes[:3] == ("SIL", "AA", "AE")
    corpus = read_corpus(SHARED / "ljspeech_mfa" / "wavs", reader="files")
    utterances, lengths, _ = measure(corpus.utterances, resample=True)
    assert {u.id: num_labels(int(length)) for u, length in zip(utterances, lengths, strict=True)} == {
        name: len(values) for name, values in grids.labels.items()
    }
