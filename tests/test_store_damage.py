"""A store whose shards are damaged, foreign, gone or left half-written: found, said and mended, and never read."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_features import KEYS, LAYERS, Frozen, answers, bank, same, shards
from torch import Tensor

from headwater.nn.upstream import Upstream
from headwater.store import Store, atomic
from headwater.store.shards import Broken, open_shard


def test_a_flipped_byte_is_found_said_and_mended(
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    Frozen(stored_upstream, tmp_path).filled_with()
    victim = shards(tmp_path)[1]
    whole = victim.read_bytes()
    broken = bytearray(whole)
    broken[len(broken) // 2 + len(broken) // 4] ^= 4
    victim.write_bytes(broken)
    again = Frozen(stored_upstream, tmp_path).filled_with()
    assert same(answers(again), stored_answers)
    assert [line for line in again.said if str(victim) in line and "not what was written; removed" in line]
    assert 0 < len(again.reads) < 12 and victim.read_bytes() == whole


@settings(deadline=None)
@given(data=st.data())
def test_no_damage_to_a_shard_goes_unseen(
    data: st.DataObject, stored_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damage")
    Frozen(stored_upstream, root).filled_with(KEYS[:2])
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
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path, content: bytes
) -> None:
    Frozen(stored_upstream, tmp_path).filled_with()
    shards(tmp_path)[0].write_bytes(content)
    again = Frozen(stored_upstream, tmp_path).filled_with()
    assert same(answers(again), stored_answers) and any("not a whole shard" in line for line in again.said)


def test_a_shard_of_another_bank_is_never_used(stored_upstream: Upstream, tmp_path: Path) -> None:
    Frozen(stored_upstream, tmp_path).filled_with()
    other = bank(state_sha256="another")
    moved = tmp_path / other.fingerprint
    moved.mkdir()
    for file in shards(tmp_path):
        (moved / file.name).write_bytes(file.read_bytes())
    again = Frozen(stored_upstream, tmp_path).filled_with(of=other)
    assert len(again.reads) == 12 and any("do not fit each other or this bank" in line for line in again.said)


def test_a_shard_that_vanishes_is_computed_again_and_one_in_use_stays_readable(
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    reader = Frozen(stored_upstream, tmp_path).filled_with()
    for file in shards(tmp_path):
        file.unlink()
    assert same(answers(reader), stored_answers), "mapped files live as long as somebody reads them"
    assert len(Frozen(stored_upstream, tmp_path).filled_with().reads) == 12


def test_a_damaged_shard_that_cannot_be_removed_is_not_used(
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Frozen(stored_upstream, tmp_path).filled_with()
    shards(tmp_path)[0].write_bytes(b"nothing")

    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)
    features = Frozen(stored_upstream, tmp_path).filled_with()
    assert same(answers(features), stored_answers) and any("it cannot be removed" in line for line in features.said)


def test_without_its_notes_of_use_a_store_works_as_before(stored_upstream: Upstream, tmp_path: Path) -> None:
    Frozen(stored_upstream, tmp_path).filled_with()
    for content in ("", "[]", '{"x": 1}', '{"frames-x.safetensors": ["a", "b"]}'):
        next(tmp_path.rglob("usage.json")).write_text(content)
        assert Frozen(stored_upstream, tmp_path).filled_with().reads == []
    assert all(shard.cost > 0 for shard in Store(tmp_path).shards())


def test_what_killed_writers_left_is_swept_when_they_are_surely_dead(stored_upstream: Upstream, tmp_path: Path) -> None:
    Frozen(stored_upstream, tmp_path).filled_with()
    folder = tmp_path / bank().fingerprint
    dead, alive = folder / ".frames-1.safetensors.abc.tmp", folder / ".frames-2.safetensors.abc.tmp"
    dead.write_bytes(b"x"), alive.write_bytes(b"x")
    os.utime(dead, (time.time() - 7200,) * 2)
    Frozen(stored_upstream, tmp_path).filled_with()
    assert alive.exists() and not dead.exists()
