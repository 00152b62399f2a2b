"""What a task on signals hears: mixtures and pieces of them, drawn places, windows and blocks, each sample where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from signals import RATE, tones

from headwater.audio.io import blocks, read
from headwater.config import DataConfig, RunConfig, UpstreamConfig
from headwater.data.corpus import Corpus, Utterance
from headwater.data.mixtures import Mixture, Part, pieces
from headwater.nn.featurizer import Featurizer
from headwater.nn.upstream import Upstream
from headwater.train.corpora import Reader
from headwater.train.feed import Feed
from headwater.train.kept import contents_of
from headwater.train.pieces import consecutive, place
from headwater.train.task import Draw, Item, Sounds, Task
from headwater.train.windows import Block, Windows, overlap_add

# mixtures


def test_a_mixture_is_the_sum_of_its_parts_in_length_gain_and_level(tmp_path: Path) -> None:
    one, two = tones(tmp_path, 1000, 700)
    reader = Reader(DataConfig(), RATE)
    a, b = (read(file) for file in (one, two))
    short = Utterance("m", one, mixture=Mixture((Part(one, gain=2.0), Part(two, gain=0.5))))
    wav, parts = reader.both(short)
    assert parts is not None and torch.equal(parts, torch.stack([2 * a[:700], 0.5 * b]))
    assert torch.equal(wav, 2 * a[:700] + 0.5 * b) and torch.equal(reader(short), wav)
    long, parts = reader.both(Utterance("m", one, mixture=Mixture((Part(one), Part(two, level=-20.0)), "longest")))
    assert parts is not None and len(long) == 1000 and not parts[1, 700:].any()
    assert 20 * np.log10(float(parts[1, :700].square().mean().sqrt())) == pytest.approx(-20, abs=1e-4)
    fast, _ = reader.both(Utterance("m", one, mixture=Mixture((Part(one, speed=1.25),))))
    assert len(fast) == 800
    piece = Utterance("m", one, mixture=Mixture((Part(one), Part(two)), first=100, last=250))
    assert torch.equal(reader(piece), (a[:700] + b)[100:250])


def test_a_stored_mixture_is_heard_from_its_own_file_and_its_parts_must_fit(tmp_path: Path) -> None:
    one, two, mixed = tones(tmp_path, 800, 800, 800)
    utterance = Utterance("m", mixed, mixture=Mixture((Part(one), Part(two)), stored=True))
    wav, parts = Reader(DataConfig(), RATE).both(utterance)
    assert torch.equal(wav, read(mixed)) and parts is not None and torch.equal(parts[1], read(two))
    from headwater.data.measure import measure
    from headwater.errors import DataError

    assert measure([utterance])[1].tolist() == [800]
    soundfile.write(two, np.zeros(790), RATE)
    with pytest.raises(DataError, match=r"1\.wav has 790 samples, and its mixture .*2\.wav has 800"):
        measure([utterance])


@pytest.mark.parametrize(
    ("samples", "size", "shortest"), [(1000, 300, 1), (1000, 300, 200), (900, 300, 50), (80, 300, 9)]
)
def test_consecutive_pieces_lose_no_sample(tmp_path: Path, samples: int, size: int, shortest: int) -> None:
    one, two = tones(tmp_path, samples, samples + 50)
    cuts = pieces(samples, size, shortest)
    assert {sample for first, last in cuts for sample in range(first, last)} == set(range(samples))
    assert all(last - first <= size for first, last in cuts)
    assert samples < shortest or all(last - first >= shortest for first, last in cuts)
    reader = Reader(DataConfig(), RATE)
    for utterance in (Utterance("p", one), Utterance("m", one, mixture=Mixture((Part(one), Part(two))))):
        whole = reader(utterance)
        made = consecutive([Item(utterance, samples)], size, shortest)
        assert len({item.id for item in made}) == len(cuts)
        for item, (first, last) in zip(made, cuts, strict=True):
            assert item.num_samples == last - first and torch.equal(reader(item.utterance), whole[first:last])


def test_a_mixture_and_a_piece_are_kept_under_the_content_of_all_their_files(tmp_path: Path) -> None:
    one, two, other = tones(tmp_path, 1000, 1000, 1000)
    (tmp_path / "copy.wav").write_bytes(one.read_bytes())
    config = RunConfig(upstream=UpstreamConfig(name="fbank"), downstream="x")

    def keys(*utterances: Utterance, channel: str | int = "single") -> list[bytes]:
        config.data.channel = channel  # type: ignore[assignment]
        items = [Item(utterance, 1000) for utterance in utterances]
        return list(contents_of(items, config, (RATE, RATE), False).values())

    def mixed(name: str, *parts: Part, **how: Any) -> Utterance:
        return Utterance(name, parts[0].path, mixture=Mixture(parts, **how))

    base = mixed("a", Part(one), Part(two))
    (same,) = keys(base)
    assert keys(mixed("b", Part(tmp_path / "copy.wav"), Part(two))) == [same], "names and places have no part in it"
    others = [
        mixed("c", Part(one, gain=0.5), Part(two)),
        mixed("d", Part(one), Part(other)),
        mixed("e", Part(one), Part(two, level=-20.0)),
        mixed("f", Part(one), Part(two, speed=1.1)),
        mixed("g", Part(one), Part(two, start=0.01)),
        mixed("h", Part(one), Part(two), length="longest"),
        mixed("i", Part(one), Part(two), stored=True),
        *(item.utterance for item in consecutive([Item(base, 1000)], 400)),
        *(item.utterance for item in consecutive([Item(Utterance("u", one), 1000)], 400)),
        Utterance("u", one),
    ]
    assert len({same, *keys(*others)}) == len(others), "a stored mixture is its own file"
    assert keys(base, channel=0) != [same]
    corpora = [Corpus("c", "csv", tmp_path, (utterance,)).sha256() for utterance in (base, *others)]
    assert len({*corpora}) == len(corpora)


# pieces in time


class Samples(torch.nn.Module):
    """A front-end whose frame k is its own samples, so that a frame says where it lies."""

    def __init__(self, stride: int, rate: int = RATE) -> None:
        super().__init__()
        self.sample_rate, self.stride, self.offset, self.out_dim = rate, stride, stride / 2, stride

    def frames(self, samples: int) -> int:
        return max(1, samples // self.stride)

    def forward(self, wavs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        from headwater.nn.lengths import pad

        rows = [wav[: self.frames(len(wav)) * self.stride].view(-1, self.stride) for wav in wavs]
        return pad(rows)


class Ramps(Task):
    """Utterance n is n + t/2^20 at its sample t."""

    crop_seconds = 0.05
    hops: ClassVar[dict[str, int]] = {"slow": 40}

    def __init__(self) -> None:
        pass

    def sounds(self, item: Item, wav: torch.Tensor, parts: torch.Tensor | None) -> Sounds:
        return Sounds({"mixture": wav}, {"slow": wav[::40], "pair": torch.stack([wav, -wav])})

    def _none(self, *_: Any) -> Any:
        raise AssertionError

    corpora = head = loss = score = predict = restore = _none


@pytest.mark.parametrize("way", ["kept", "anew", "trained"])
@pytest.mark.parametrize("stride", [160, 100])
def test_frames_and_samples_of_a_piece_belong_together(way: str, stride: int) -> None:
    upstream = Upstream(Samples(stride), (stride,), ("samples",))
    sizes = [4000, 900, 2563, 800]
    ramps = {str(n): n + torch.arange(size) / 2**20 for n, size in enumerate(sizes)}
    items = [Item(Utterance(name, Path(name)), len(wav)) for name, wav in ramps.items()]
    feed = Feed(
        upstream, Featurizer(upstream.spec), Ramps(), lambda item: ramps[item.id], lambda item: (ramps[item.id], None),
        device=torch.device("cpu"), trainable=way == "trained", rates=(RATE, RATE),
    )  # fmt: skip
    if way == "kept":
        feed.store.fill(items)
    heard: dict[str, set[int]] = {name: set() for name in ramps}
    for epoch in range(60):
        draws = [[Draw(7, epoch, number) for number in range(len(items))]]
        (ready,) = feed([items], draws)
        states = ready.x if way == "trained" else ready.states[0] if ready.states is not None else None
        assert states is not None
        for row, item in enumerate(items):
            size, frames = int(ready.batch.samples[row]), int(ready.lengths[row])
            wav = ready.batch.inputs["mixture"][row, :size]
            assert frames == upstream.frames(size) and not ready.batch.inputs["mixture"][row, size:].any()
            flat = states[row, :frames].flatten()
            assert torch.equal(flat[: len(wav)], wav[: len(flat)])
            assert torch.equal(ready.batch.labels["pair"][row, 1, :size], -wav)
            first = round((float(wav[0]) - row) * 2**20)
            slow = ready.batch.labels["slow"][row, : -(-size // 40)]
            assert first % stride == 0 and torch.equal(slow, wav[::40])
            assert size <= 800 and (size == 800 or first + size == item.num_samples)
            heard[item.id] |= set(range(first, first + size))
    assert {name: len(found) for name, found in heard.items()} == {str(n): size for n, size in enumerate(sizes)}
    (whole,) = feed([items])
    assert whole.batch.samples.tolist() == sizes


def test_a_place_depends_on_seed_epoch_and_item_alone() -> None:
    places = {
        place(9000, 1000, 160, Draw(seed, epoch, number), 8800)
        for seed in (1, 2)
        for epoch in (0, 1)
        for number in (0, 1, 2)
    }
    assert len(places) > 6
    assert place(9000, 1000, 160, Draw(1, 1, 1), 8800) == place(9000, 1000, 160, Draw(1, 1, 1), 8800)
    lasts = {place(1500, 1000, 160, Draw(1, epoch, 0), 1280) for epoch in range(100)}
    assert lasts == {(first, min(first + 1000, 1500)) for first in range(0, 641, 160)}


@pytest.mark.parametrize(("size", "hop"), [(100, 50), (100, 100), (100, 30)])
def test_windows_cover_a_file_and_add_up_to_it(size: int, hop: int) -> None:
    windows = Windows(size / RATE, hop / RATE, RATE)
    for samples in (101, 150, 151, 399, 1000):
        wav = torch.randn(samples)
        cut = list(windows.cut(iter(wav.split(hop)), samples))
        assert all(torch.equal(piece, wav[first : first + size]) for first, piece in cut)
        joined = overlap_add((Block(first, piece, {"a": piece}) for first, piece in cut), windows)
        torch.testing.assert_close(torch.cat([stretch["a"] for stretch in joined]), wav)


@pytest.mark.parametrize("rate", [16000, 22050, 8000])
def test_blocks_of_a_file_are_the_file(tmp_path: Path, rate: int) -> None:
    (file,) = tones(tmp_path, 30011, rate=rate)
    whole = read(file, resample=True)
    stream = torch.cat(list(blocks(file, 777, resample=True)))
    assert len(stream) == len(whole)
    assert torch.equal(stream, whole) if rate == RATE else float((stream - whole).abs().max()) < 1e-5
