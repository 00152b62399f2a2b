"""The feature store: what names features, what a shard promises, and what happens to what is damaged, too much or in the way."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from headwater.audio.frontends import build_frontend
from headwater.errors import HeadwaterError
from headwater.nn.upstream import Upstream
from headwater.store import Bank, FrozenFeatures, Store, Workers, atomic, digests
from headwater.store import store as store_module
from headwater.store.digests import content_key, file_digests
from headwater.store.plan import Plan, plan_shards, share
from headwater.store.quality import relative_error
from headwater.store.shards import Broken, open_shard
from headwater.store.store import NoRoom

DIMS = (6, 4, 6)


@dataclass(frozen=True)
class Key:
    id: str


class Three(Upstream):
    """Three states of log mel bins."""

    def __init__(self) -> None:
        super().__init__(
            build_frontend({"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 20}}}), DIMS, ("a", "b", "c")
        )
        self.parts = nn.ModuleList(nn.Linear(20, dim) for dim in DIMS)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return tuple(part(x) for part in self.parts), lengths


KEYS = [Key(f"u{number}") for number in range(12)]
WAVS = {
    key.id: 0.1 * torch.randn(3200 + 911 * n, generator=torch.Generator().manual_seed(n)) for n, key in enumerate(KEYS)
}
CONTENT = {key.id: content_key(key.id) for key in KEYS}
LAYERS = (0, 2)
SMALL = 6_000  # bytes a shard: several of them


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    torch.manual_seed(0)
    return Three().eval()


def bank(dtype: str = "float32", **other: str) -> Bank:
    return Bank({"dtype": dtype, "layer_dims": list(DIMS), "upstream": "three", **other})


class Frozen(FrozenFeatures[Key]):
    """With what was read, and what was said."""

    def __init__(
        self, upstream: Upstream, root: Path | None, layers: tuple[int, ...] = LAYERS, **settings: object
    ) -> None:
        self.reads: list[str] = []
        self.said: list[str] = []
        budget = settings.pop("budget", None)
        where = None if root is None else Store(root, budget, self.said.append, SMALL)  # type: ignore[arg-type]
        super().__init__(upstream, layers, self._noted, store=where, say=self.said.append, **settings)  # type: ignore[arg-type]

    def _noted(self, key: Key) -> Tensor:
        self.reads.append(key.id)
        return WAVS[key.id]

    def filled_with(self, keys: list[Key] = KEYS, workers: Workers | None = None, of: Bank | None = None) -> Frozen:
        self.fill(
            keys,
            bank=of or bank(self.dtype),
            content=CONTENT,
            seconds=lambda key: len(WAVS[key.id]) / 16000,
            workers=workers,
        )
        return self


def answers(features: FrozenFeatures[Key], keys: list[Key] = KEYS) -> dict[str, list[Tensor]]:
    found = {}
    for key, (states, lengths) in zip(keys, features.batches([[key] for key in keys]), strict=True):
        assert all(len(state[0]) == int(lengths[0]) for state in states)
        found[key.id] = [state[0].clone() for state in states]
    return found


def same(a: dict[str, list[Tensor]], b: dict[str, list[Tensor]]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def plain(upstream: Upstream) -> dict[str, list[Tensor]]:
    """What is right: computed anew, kept nowhere."""
    return answers(Frozen(upstream, None))


# the same numbers


def test_what_is_read_back_is_what_was_computed_to_the_last_bit(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    first = Frozen(upstream, tmp_path).filled_with()
    again = Frozen(upstream, tmp_path).filled_with()
    assert same(answers(first), plain) and same(answers(again), plain)
    assert len(first.reads) == 12 and again.reads == [] and len(shards(tmp_path)) > 2
    assert (again.filled.cached, again.filled.computed) == (12, 0)
    assert not again._held, "what is on disk takes no memory"


def test_a_batch_is_padded_and_in_order_whatever_shards_it_comes_from(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    features = Frozen(upstream, tmp_path).filled_with(KEYS[:9])
    ((states, lengths),) = features.batches([KEYS[::-1]])
    for row, key in enumerate(KEYS[::-1]):
        for state, right in zip(states, plain[key.id], strict=True):
            assert torch.equal(state[row, : lengths[row]], right) and not state[row, lengths[row] :].any()


def test_a_store_that_was_filled_in_part_is_gone_on_with(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    Frozen(upstream, tmp_path).filled_with(KEYS[2:7])
    rest = Frozen(upstream, tmp_path).filled_with()
    assert sorted(rest.reads) == sorted(key.id for key in [*KEYS[:2], *KEYS[7:]])
    assert same(answers(rest), plain)


def test_layers_join_those_that_are_there(upstream: Upstream, tmp_path: Path) -> None:
    Frozen(upstream, tmp_path, (1,)).filled_with()
    sizes = sum(file.stat().st_size for file in shards(tmp_path))
    every = Frozen(upstream, tmp_path, (0, 1, 2)).filled_with()
    new = [file for file in shards(tmp_path) if sorted(open_shard(file).layers) == [0, 2]]
    assert new and len(every.reads) == 12 and sizes
    assert same(answers(every), answers(Frozen(upstream, None, (0, 1, 2))))
    assert Frozen(upstream, tmp_path, (2, 0)).filled_with().reads == []


def test_the_same_audio_under_two_names_is_computed_once(upstream: Upstream, tmp_path: Path) -> None:
    features = Frozen(upstream, tmp_path)
    twin = Key("twin")
    WAVS["twin"] = WAVS["u3"]
    content = {"u3": CONTENT["u3"], "twin": CONTENT["u3"]}
    features.fill([KEYS[3], twin], bank=bank(), content=content)
    assert len(features.reads) == 1 and features.holds(twin)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_means_have_the_same_bits_computed_afresh_read_back_and_taken_of_frames(
    upstream: Upstream, tmp_path: Path, dtype: str
) -> None:
    fresh = answers(Frozen(upstream, None, pooled=True, dtype=dtype))
    written = Frozen(upstream, tmp_path / "a", pooled=True, dtype=dtype).filled_with()
    read = Frozen(upstream, tmp_path / "a", pooled=True, dtype=dtype).filled_with()
    Frozen(upstream, tmp_path / "b", dtype=dtype).filled_with()
    of_frames = Frozen(upstream, tmp_path / "b", pooled=True, dtype=dtype).filled_with()
    for one in (written, read, of_frames):
        assert same(answers(one), fresh)
    # Of rounded frames another mean would come.
    assert len(of_frames.reads) == (0 if dtype == "float32" else 12) and read.reads == []
    ((states, lengths),) = read.batches([KEYS[4:7]])
    assert states[0].shape == (3, 1, 6) and lengths.tolist() == [1, 1, 1]


def test_float16_is_the_same_kept_or_not_and_its_error_is_measured(upstream: Upstream, tmp_path: Path) -> None:
    half = Frozen(upstream, tmp_path, dtype="float16").filled_with()
    full = Frozen(upstream, tmp_path).filled_with()
    assert same(answers(half), answers(Frozen(upstream, None, dtype="float16")))
    assert half.filled.bytes * 2 == full.filled.bytes
    error = relative_error(half, KEYS[:3])
    assert error is not None and len(error) == 2 and all(1e-5 < one < 1e-3 for one in error)
    assert relative_error(full, KEYS[:3]) is None


def test_what_float16_cannot_hold_is_an_error_that_says_so(upstream: Upstream, tmp_path: Path) -> None:
    loud = Three().eval()
    nn.init.constant_(loud.parts[0].weight, 1e5)
    with pytest.raises(HeadwaterError, match="beyond what float16 can hold: leave out --cache-dtype"):
        Frozen(loud, tmp_path, dtype="float16").filled_with()


# workers


def test_any_number_of_workers_leaves_the_same_bytes(upstream: Upstream, tmp_path: Path) -> None:
    Frozen(upstream, tmp_path / "1").filled_with()
    for ranks in (2, 3):
        root, barrier = tmp_path / str(ranks), threading.Barrier(ranks)
        team = [Frozen(upstream, root) for _ in range(ranks)]
        threads = [
            threading.Thread(target=one.filled_with, args=(KEYS, Workers(rank, ranks, barrier.wait)))
            for rank, one in enumerate(team)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(name for one in team for name in one.reads) == sorted(CONTENT), "each utterance is computed once"
        assert [file.read_bytes() for file in shards(root)] == [file.read_bytes() for file in shards(tmp_path / "1")]


def test_ranks_without_a_common_disk_fill_one_each(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    barrier = threading.Barrier(2)
    team = [Frozen(upstream, tmp_path / str(rank)) for rank in range(2)]
    threads = [
        threading.Thread(target=one.filled_with, args=(KEYS, Workers(rank, 2, barrier.wait)))
        for rank, one in enumerate(team)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in team:
        assert not one._held and same(answers(one), plain)


@given(
    seconds=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60),
    workers=st.integers(1, 7),
    limit=st.floats(5.0, 100.0),
    rotate=st.integers(0, 59),
)
def test_a_plan_holds_every_content_once_and_knows_no_order(
    seconds: list[float], workers: int, limit: float, rotate: int
) -> None:
    keys = [content_key(str(number)) for number in range(len(seconds))]
    plan = plan_shards(keys, seconds, 1.0, max_bytes=1e9, max_seconds=limit)
    assert sorted(position for part in plan for position in part) == list(range(len(keys)))
    assert max(sum(seconds[position] for position in part) for part in plan) <= limit + max(seconds)
    turned = rotate % len(keys)
    order = [*range(turned, len(keys)), *range(turned)]
    other = plan_shards([keys[i] for i in order], [seconds[i] for i in order], 1.0, max_bytes=1e9, max_seconds=limit)
    assert [[keys[i] for i in part] for part in plan] == [[keys[order[i]] for i in part] for part in other]
    dealt = [part for worker in range(workers) for part in share(plan, worker, workers)]
    assert sorted(dealt) == sorted(plan)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"limit": 2000.0, "room": 2000.0, "seconds": 9.0}, "kept on disk"),
        ({"limit": 400.0, "room": 2000.0, "seconds": 9.0}, "kept on disk, and in memory what is beyond its budget"),
        ({"limit": 400.0, "room": 400.0, "seconds": 9.0}, "kept on disk; what does not fit, about 60 %, is computed anew in each epoch"),
        ({"limit": 0.0, "room": 0.0, "seconds": 9.0}, "computed anew in each epoch, as store.memory_gib leaves no room; one pass over 9 s of audio"),
        # What was kept under a larger budget is there, and is read.
        ({"limit": 0.0, "room": 0.0, "cached": 4, "total": 4}, "kept on disk"),
        ({"limit": 400.0, "room": 400.0, "cached": 4, "total": 4}, "kept on disk"),
    ],
)  # fmt: skip
def test_a_plan_says_where_features_will_be(about: dict[str, float], said: str) -> None:
    assert Plan(frames=1, bytes=1000, pooled=False, place="store", **about).lines()[0] == f"1 frames: 0 MiB, {said}"


def test_a_plan_is_balanced_by_duration() -> None:
    seconds = [1.0 + (number * 7919 % 97) / 10 for number in range(1000)]
    keys = [content_key(str(number)) for number in range(1000)]
    plan = plan_shards(keys, seconds, 1.0, max_bytes=1e9, max_seconds=20.0)
    loads = [sum(seconds[i] for part in share(plan, worker, 4) for i in part) for worker in range(4)]
    assert max(loads) < 1.03 * min(loads)


# damage


def test_a_flipped_byte_is_found_said_and_mended(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    Frozen(upstream, tmp_path).filled_with()
    victim = shards(tmp_path)[1]
    whole = victim.read_bytes()
    broken = bytearray(whole)
    broken[len(broken) // 2 + len(broken) // 4] ^= 4
    victim.write_bytes(broken)
    again = Frozen(upstream, tmp_path).filled_with()
    assert same(answers(again), plain)
    assert [line for line in again.said if str(victim) in line and "not what was written; removed" in line]
    assert 0 < len(again.reads) < 12 and victim.read_bytes() == whole


@settings(deadline=None)
@given(data=st.data())
def test_no_damage_to_a_shard_goes_unseen(
    data: st.DataObject, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damage")
    Frozen(upstream, root).filled_with(KEYS[:2])
    (path,) = shards(root)
    whole = path.read_bytes()
    shard = open_shard(path, bank())
    right = {key: [shard.row(layer, n).clone() for layer in LAYERS] for n, key in enumerate(shard.keys)}
    if data.draw(st.booleans(), "cut"):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    path.unlink()
    path.write_bytes(damaged)
    try:
        found = open_shard(path, bank())
    except Broken:
        return
    bad = set(found.faults())
    assert set(found.layers) == set(LAYERS)
    for position, key in enumerate(found.keys):
        assert key in right
        if position not in bad:
            assert all(torch.equal(found.row(layer, position), right[key][i]) for i, layer in enumerate(LAYERS))


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"\xff" * 64, b"not a shard at all", (2**60).to_bytes(8, "little") + b"{}"]
)
def test_a_file_that_is_no_shard_is_put_aside(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path, content: bytes
) -> None:
    Frozen(upstream, tmp_path).filled_with()
    shards(tmp_path)[0].write_bytes(content)
    again = Frozen(upstream, tmp_path).filled_with()
    assert same(answers(again), plain) and any("not a whole shard" in line for line in again.said)


def test_a_shard_of_another_bank_is_never_used(upstream: Upstream, tmp_path: Path) -> None:
    Frozen(upstream, tmp_path).filled_with()
    other = bank(state_sha256="another")
    moved = tmp_path / other.fingerprint
    moved.mkdir()
    for file in shards(tmp_path):
        (moved / file.name).write_bytes(file.read_bytes())
    again = Frozen(upstream, tmp_path).filled_with(of=other)
    assert len(again.reads) == 12 and any("do not fit each other or this bank" in line for line in again.said)


def test_a_shard_that_vanishes_is_computed_again_and_one_in_use_stays_readable(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    reader = Frozen(upstream, tmp_path).filled_with()
    for file in shards(tmp_path):
        file.unlink()
    assert same(answers(reader), plain), "mapped files live as long as somebody reads them"
    assert len(Frozen(upstream, tmp_path).filled_with().reads) == 12


# no room


@contextmanager
def smallest_files(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("memory", [float("inf"), 10_000, 0])
def test_on_a_full_disk_the_answers_are_the_same(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path, memory: float
) -> None:
    features = Frozen(upstream, tmp_path, memory=memory)
    with smallest_files(4000):
        features.filled_with()
        assert same(answers(features), plain)
    assert len([line for line in features.said if "not kept on disk" in line and "File too large" in line]) == 1
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith(".tmp")]
    held = sum(state.numel() * 4 for row in features._held.values() for state in row)
    assert held <= memory and (held > 0) == (memory > 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_more_is_said_once(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, calls = os.replace, []

    def replace(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) > 3:
            raise OSError(number, os.strerror(number), str(target))
        real(source, target)

    monkeypatch.setattr(atomic.os, "replace", replace)
    features = Frozen(upstream, tmp_path).filled_with()
    assert same(answers(features), plain) and 0 < len(shards(tmp_path)) < len(CONTENT)
    assert len([line for line in features.said if os.strerror(number) in line]) == 1
    monkeypatch.undo()
    assert 0 < len(Frozen(upstream, tmp_path).filled_with().reads) < 12


def test_a_cache_that_may_only_be_read_serves_what_it_has(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Frozen(upstream, tmp_path).filled_with(KEYS[:6])

    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkstemp",):
        monkeypatch.setattr(atomic.tempfile, name, refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    features = Frozen(upstream, tmp_path).filled_with()
    assert same(answers(features), plain) and 6 <= len(features.reads) < 13
    assert len([line for line in features.said if "Read-only" in line]) == 1


def test_a_damaged_shard_that_cannot_be_removed_is_not_used(
    upstream: Upstream, plain: dict[str, list[Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Frozen(upstream, tmp_path).filled_with()
    shards(tmp_path)[0].write_bytes(b"nothing")

    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)
    features = Frozen(upstream, tmp_path).filled_with()
    assert same(answers(features), plain) and any("it cannot be removed" in line for line in features.said)


def test_the_least_valuable_goes_first_and_nothing_that_is_needed(upstream: Upstream, tmp_path: Path) -> None:
    old, new = bank(upstream="old"), bank(upstream="new")
    Frozen(upstream, tmp_path).filled_with(KEYS[:8], of=old)
    files = shards(tmp_path)
    size = {file: file.stat().st_size for file in files}
    now = time.time()
    # The first was cheap; the second dear, but long ago; the others dear and used today.
    usage = {file.name: (100.0, now) for file in files}
    usage[files[0].name], usage[files[1].name] = (0.001, now), (100.0, now - 30 * 86400)
    (files[0].parent / "usage.json").write_text(json.dumps(usage))
    total = sum(size.values())
    store = Store(tmp_path, total)
    assert [shard.path for shard in store.make_room(size[files[0]])] == [files[0]]
    assert [shard.path for shard in Store(tmp_path, total - size[files[0]]).make_room(1)] == [files[1]]
    # Another bank in a store that is full: the old one gives way, its own shards do not.
    left = sum(file.stat().st_size for file in shards(tmp_path))
    full = Frozen(upstream, tmp_path, budget=left + 1000).filled_with(of=new)
    kept = shards(tmp_path)
    assert sum(file.stat().st_size for file in kept) <= left + 1000
    assert any(file.parent.name == new.fingerprint for file in kept)
    assert same(answers(full), answers(Frozen(upstream, None)))


def test_a_budget_that_is_too_small_prunes_nothing_for_nothing(upstream: Upstream, tmp_path: Path) -> None:
    Frozen(upstream, tmp_path).filled_with()
    before = shards(tmp_path)
    with pytest.raises(NoRoom, match=r"exceed the budget .*--cache-budget"):
        Store(tmp_path, 5000).make_room(6000)
    assert shards(tmp_path) == before
    none = Frozen(upstream, tmp_path / "none", budget=0).filled_with()
    assert not shards(tmp_path / "none") and len(none._held) == 12 and "--cache-budget" in none.said[0]


def test_without_its_notes_of_use_a_store_works_as_before(upstream: Upstream, tmp_path: Path) -> None:
    Frozen(upstream, tmp_path).filled_with()
    for content in ("", "[]", '{"x": 1}', '{"frames-x.safetensors": ["a", "b"]}'):
        next(tmp_path.rglob("usage.json")).write_text(content)
        assert Frozen(upstream, tmp_path).filled_with().reads == []
    assert all(shard.cost > 0 for shard in Store(tmp_path).shards())


def test_what_killed_writers_left_is_swept_when_they_are_surely_dead(upstream: Upstream, tmp_path: Path) -> None:
    Frozen(upstream, tmp_path).filled_with()
    folder = tmp_path / bank().fingerprint
    dead, alive = folder / ".frames-1.safetensors.abc.tmp", folder / ".frames-2.safetensors.abc.tmp"
    dead.write_bytes(b"x"), alive.write_bytes(b"x")
    os.utime(dead, (time.time() - 7200,) * 2)
    Frozen(upstream, tmp_path).filled_with()
    assert alive.exists() and not dead.exists()


# keys


def test_a_digest_is_remembered_until_anything_about_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    real = digests.file_sha256
    monkeypatch.setattr(digests, "file_sha256", lambda path: hashed.append(path) or real(path))
    monkeypatch.setattr(digests, "RACY_NS", 0)
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for file in files:
        file.write_bytes(os.urandom(100))
    memory = tmp_path / "memory"
    first = file_digests(files, memory)
    assert file_digests(files, memory) == first and len(hashed) == 2
    # The same size and date, another content: its inode or its time of change gives it away.
    status = files[0].stat()
    files[0].write_bytes(os.urandom(100))
    os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    second = file_digests(files, memory)
    assert second[files[0]] != first[files[0]] and second[files[1]] == first[files[1]] and len(hashed) == 3
    for content in (b"", b"[]", b'{"x": 3}', b"\xff"):
        next(memory.iterdir()).write_bytes(content)
        assert file_digests(files, memory) == second


def test_a_file_of_this_moment_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"1")
    file_digests([file], tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_a_key_names_the_part_and_how_it_is_read() -> None:
    keys = {
        content_key("d", start, end, channel, rate)
        for start in (None, 0.5)
        for end in (None, 1.0)
        for channel in ("single", 0)
        for rate in (8000, 16000)
    }
    assert len(keys) == 16 and all(len(key) == 16 for key in keys)


def test_the_listing_knows_shards_by_their_names(tmp_path: Path) -> None:
    for name in (
        "frames-a.safetensors",
        "mean-b.safetensors",
        ".frames-c.safetensors.x.tmp",
        "usage.json",
        "other.txt",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in store_module._listing(tmp_path)] == ["frames-a.safetensors", "mean-b.safetensors"]
    assert store_module._listing(tmp_path / "nowhere") == []
