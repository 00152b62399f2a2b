"""What names features in a store, and the plan of its shards: digests of files, keys of contents, shares of workers, and where features will be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_features import CONTENT, KEYS, WAVS, Frozen, Key, bank

from headwater.nn.upstream import Upstream
from headwater.store import digests
from headwater.store import store as store_module
from headwater.store.digests import content_key, file_digests
from headwater.store.plan import Plan, plan_shards, share


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


def test_the_same_audio_under_two_names_is_computed_once(stored_upstream: Upstream, tmp_path: Path) -> None:
    features = Frozen(stored_upstream, tmp_path)
    twin = Key("twin")
    WAVS["twin"] = WAVS["u3"]
    content = {"u3": CONTENT["u3"], "twin": CONTENT["u3"]}
    features.fill([KEYS[3], twin], bank=bank(), content=content)
    assert len(features.reads) == 1 and features.holds(twin)


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
