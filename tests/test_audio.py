"""The one door for sound: what `headwater.audio.read` gives, and what it refuses."""

from __future__ import annotations

import csv
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from headwater.audio import AudioInfo, info, read
from headwater.errors import DataError, UsageError

RATE = 16000
FORMATS = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz / rate * np.arange(round(seconds * rate)))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **kind: Any) -> Path:
    soundfile.write(path, samples, rate, **kind)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "tolerance"),
    [
        ("a.wav", {}, 1 / 32768),
        ("a.wav", {"subtype": "PCM_24"}, 1 / 2**23),
        ("a.wav", {"subtype": "FLOAT"}, 0.0),
        ("a.flac", {}, 1 / 32768),
        ("ünï 語.wav", {}, 1 / 32768),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}, 0.05),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.05),
        ("a.mp3", {"format": "MP3"}, 0.05),
    ],
)
def test_every_format_is_read_as_float32_of_full_length(
    tmp_path: Path, name: str, kind: dict[str, Any], tolerance: float
) -> None:
    path = write(tmp_path / name, tone(), **kind)
    wav = read(path)
    assert wav.dtype == torch.float32
    assert wav.shape == (RATE,)
    middle = slice(2000, -2000)  # codecs ring at the ends
    assert (wav - torch.from_numpy(tone()))[middle].abs().max() <= tolerance
    assert info(path) == AudioInfo(num_samples=RATE, sample_rate=RATE, channels=1)
    assert info(path).duration == 1.0


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@pytest.mark.parametrize(("start", "end"), [(0.25, 0.5), (None, 0.1), (0.9, None), (0.0, 1.0), (0.33333, 0.33341)])
def test_a_part_is_that_slice_of_the_whole(tmp_path: Path, name: str, start: float | None, end: float | None) -> None:
    path = write(tmp_path / name, tone())
    first, last = round((start or 0) * RATE), round((1.0 if end is None else end) * RATE)
    assert torch.equal(read(path, start=start, end=end), read(path)[first:last])


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.1), (1.0, None), (-0.1, 0.5), (0.5, 0.5), (0.7, 0.2)])
def test_a_part_outside_the_file_is_refused_with_the_files_length(
    tmp_path: Path, start: float, end: float | None
) -> None:
    path = write(tmp_path / "a.wav", tone())
    with pytest.raises(DataError, match=rf"a\.wav.*{re.escape(str(start))} s.*1 s long \(16000 samples"):
        read(path, start=start, end=end)


def test_another_rate_is_refused_and_the_message_names_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(rate=8000), rate=8000)
    with pytest.raises(DataError, match=r"a\.wav.*8000 Hz.*16000 Hz.*-o data\.resample=true"):
        read(path)
    assert len(read(path, sample_rate=8000)) == 8000


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_a_tone(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", tone(rate=rate), rate=rate, subtype="FLOAT")
    wav = read(path, resample=True)
    assert wav.shape == (RATE,)
    middle = slice(1000, -1000)
    assert (wav - torch.from_numpy(tone()))[middle].abs().max() < 1e-4


def test_resampling_removes_what_the_lower_rate_cannot_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(rate=48000, hertz=12000), rate=48000, subtype="FLOAT")
    assert read(path, resample=True)[1000:-1000].abs().max() < 1e-4


def test_channels_are_never_mixed_unasked(tmp_path: Path) -> None:
    left, right = tone(), tone(hertz=1000)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav has 2 channels.*-o data\.channel=mean\|0\|1"):
        read(path)
    assert torch.equal(read(path, channel=0), torch.from_numpy(left))
    assert torch.equal(read(path, channel=1), torch.from_numpy(right))
    assert torch.allclose(read(path, channel="mean"), torch.from_numpy((left + right) / 2))
    with pytest.raises(DataError, match=r"2 channel\(s\).*data\.channel=2"):
        read(path, channel=2)


@pytest.mark.parametrize("channel", ["left", -1, True])
def test_a_channel_that_is_no_channel_is_a_usage_error(tmp_path: Path, channel: object) -> None:
    path = write(tmp_path / "a.wav", tone())
    with pytest.raises(UsageError, match=r"data\.channel"):
        read(path, channel=channel)  # type: ignore[arg-type]


def test_a_cut_off_wav_is_truncated_not_shorter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    path.write_bytes(path.read_bytes()[:-1000])
    for call in (info, read):
        with pytest.raises(DataError, match=r"a\.wav is truncated.*32000 bytes.*31000"):
            call(path)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_streamed_without_sizes_is_read_whole(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "a.wav", tone())
    whole = read(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert torch.equal(read(path), whole)
    assert info(path).num_samples == RATE


@pytest.mark.parametrize(
    ("name", "kind"), [("a.flac", {}), ("a.mp3", {"format": "MP3"}), ("a.opus", {"format": "OGG", "subtype": "OPUS"})]
)
def test_a_cut_off_compressed_file_is_refused(tmp_path: Path, name: str, kind: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE)
    path = write(tmp_path / name, noise, **kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=re.escape(name)):
        read(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    samples = tone()
    samples[77] = bad
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav.*NaN or infinite"):
        read(path)


def test_what_is_no_audio_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not sound")
    (tmp_path / "nothing.flac").touch()
    write(tmp_path / "empty.wav", tone()[:0])
    (tmp_path / "folder.wav").mkdir()
    for name, reason in [
        ("text.wav", "cannot be read"),
        ("nothing.flac", "cannot be read"),
        ("empty.wav", "holds no samples"),
        ("folder.wav", "is a folder"),
        ("missing.wav", "is missing"),
    ]:
        for call in (info, read):
            with pytest.raises(DataError, match=rf"{re.escape(name)} {reason}"):
                call(tmp_path / name)


def test_a_flac_that_does_not_know_its_length_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone())
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(DataError, match="how long"):
        read(path)


def test_real_recordings_in_every_container_hold_the_same_speech() -> None:
    if not FORMATS.is_dir():
        pytest.skip(f"no recordings at {FORMATS}")
    reference = read(FORMATS / "mono_16k_pcm16.wav")
    with (FORMATS / "formats.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        path = FORMATS / row["file"]
        found = info(path)
        assert (found.sample_rate, found.channels, found.num_samples) == (
            int(row["samplerate"]),
            int(row["channels"]),
            int(row["frames"]),
        )
        wav = read(path, resample=True, channel=0)
        assert abs(len(wav) - found.duration * RATE) <= 1
        if row["source"].startswith("1188-133604-0030") and found.sample_rate >= RATE:
            error = (wav - reference).square().mean() / reference.square().mean()
            # A codec may lose a tenth; another rate only what lies at the very top of the band.
            allowed = 0.1 if row["subtype"] == "OPUS" else 1e-7 if found.sample_rate == RATE else 1e-3
            assert error < allowed, row["file"]
