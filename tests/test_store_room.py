"""A store without room: full and read-only disks, budgets, and which shards give way; the answers are the same."""

from __future__ import annotations

import errno
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stored_features import CONTENT, KEYS, Frozen, answers, bank, same, shards
from torch import Tensor

from headwater.nn.upstream import Upstream
from headwater.store import Store, atomic
from headwater.store.store import NoRoom


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
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path, memory: float
) -> None:
    features = Frozen(stored_upstream, tmp_path, memory=memory)
    with smallest_files(4000):
        features.filled_with()
        assert same(answers(features), stored_answers)
    assert len([line for line in features.said if "not kept on disk" in line and "File too large" in line]) == 1
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith(".tmp")]
    held = sum(state.numel() * 4 for row in features._held.values() for state in row)
    assert held <= memory and (held > 0) == (memory > 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_more_is_said_once(
    stored_upstream: Upstream,
    stored_answers: dict[str, list[Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    real, calls = os.replace, []

    def replace(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) > 3:
            raise OSError(number, os.strerror(number), str(target))
        real(source, target)

    monkeypatch.setattr(atomic.os, "replace", replace)
    features = Frozen(stored_upstream, tmp_path).filled_with()
    assert same(answers(features), stored_answers) and 0 < len(shards(tmp_path)) < len(CONTENT)
    assert len([line for line in features.said if os.strerror(number) in line]) == 1
    monkeypatch.undo()
    assert 0 < len(Frozen(stored_upstream, tmp_path).filled_with().reads) < 12


def test_a_cache_that_may_only_be_read_serves_what_it_has(
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Frozen(stored_upstream, tmp_path).filled_with(KEYS[:6])

    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkstemp",):
        monkeypatch.setattr(atomic.tempfile, name, refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    features = Frozen(stored_upstream, tmp_path).filled_with()
    assert same(answers(features), stored_answers) and 6 <= len(features.reads) < 13
    assert len([line for line in features.said if "Read-only" in line]) == 1


def test_the_least_valuable_goes_first_and_nothing_that_is_needed(stored_upstream: Upstream, tmp_path: Path) -> None:
    old, new = bank(upstream="old"), bank(upstream="new")
    Frozen(stored_upstream, tmp_path).filled_with(KEYS[:8], of=old)
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
    full = Frozen(stored_upstream, tmp_path, budget=left + 1000).filled_with(of=new)
    kept = shards(tmp_path)
    assert sum(file.stat().st_size for file in kept) <= left + 1000
    assert any(file.parent.name == new.fingerprint for file in kept)
    assert same(answers(full), answers(Frozen(stored_upstream, None)))


def test_a_budget_that_is_too_small_prunes_nothing_for_nothing(stored_upstream: Upstream, tmp_path: Path) -> None:
    Frozen(stored_upstream, tmp_path).filled_with()
    before = shards(tmp_path)
    with pytest.raises(NoRoom, match=r"exceed the budget .*--cache-budget"):
        Store(tmp_path, 5000).make_room(6000)
    assert shards(tmp_path) == before
    none = Frozen(stored_upstream, tmp_path / "none", budget=0).filled_with()
    assert not shards(tmp_path / "none") and len(none._held) == 12 and "--cache-budget" in none.said[0]
