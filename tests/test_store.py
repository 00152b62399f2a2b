"""What the feature store gives back: the numbers that were computed, to the last bit, in any order, of any part, dtype and number of workers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from stored_features import CONTENT, KEYS, Frozen, Three, answers, same, shards
from torch import Tensor, nn

from headwater.errors import HeadwaterError
from headwater.nn.upstream import Upstream
from headwater.store import Workers
from headwater.store.quality import relative_error
from headwater.store.shards import open_shard


def test_what_is_read_back_is_what_was_computed_to_the_last_bit(
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    first = Frozen(stored_upstream, tmp_path).filled_with()
    again = Frozen(stored_upstream, tmp_path).filled_with()
    assert same(answers(first), stored_answers) and same(answers(again), stored_answers)
    assert len(first.reads) == 12 and again.reads == [] and len(shards(tmp_path)) > 2
    assert (again.filled.cached, again.filled.computed) == (12, 0)
    assert not again._held, "what is on disk takes no memory"


def test_a_batch_is_padded_and_in_order_whatever_shards_it_comes_from(
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    features = Frozen(stored_upstream, tmp_path).filled_with(KEYS[:9])
    ((states, lengths),) = features.batches([KEYS[::-1]])
    for row, key in enumerate(KEYS[::-1]):
        for state, right in zip(states, stored_answers[key.id], strict=True):
            assert torch.equal(state[row, : lengths[row]], right) and not state[row, lengths[row] :].any()


def test_a_store_that_was_filled_in_part_is_gone_on_with(
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    Frozen(stored_upstream, tmp_path).filled_with(KEYS[2:7])
    rest = Frozen(stored_upstream, tmp_path).filled_with()
    assert sorted(rest.reads) == sorted(key.id for key in [*KEYS[:2], *KEYS[7:]])
    assert same(answers(rest), stored_answers)


def test_layers_join_those_that_are_there(stored_upstream: Upstream, tmp_path: Path) -> None:
    Frozen(stored_upstream, tmp_path, (1,)).filled_with()
    sizes = sum(file.stat().st_size for file in shards(tmp_path))
    every = Frozen(stored_upstream, tmp_path, (0, 1, 2)).filled_with()
    new = [file for file in shards(tmp_path) if sorted(open_shard(file).layers) == [0, 2]]
    assert new and len(every.reads) == 12 and sizes
    assert same(answers(every), answers(Frozen(stored_upstream, None, (0, 1, 2))))
    assert Frozen(stored_upstream, tmp_path, (2, 0)).filled_with().reads == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_means_have_the_same_bits_computed_afresh_read_back_and_taken_of_frames(
    stored_upstream: Upstream, tmp_path: Path, dtype: str
) -> None:
    fresh = answers(Frozen(stored_upstream, None, pooled=True, dtype=dtype))
    written = Frozen(stored_upstream, tmp_path / "a", pooled=True, dtype=dtype).filled_with()
    read = Frozen(stored_upstream, tmp_path / "a", pooled=True, dtype=dtype).filled_with()
    Frozen(stored_upstream, tmp_path / "b", dtype=dtype).filled_with()
    of_frames = Frozen(stored_upstream, tmp_path / "b", pooled=True, dtype=dtype).filled_with()
    for one in (written, read, of_frames):
        assert same(answers(one), fresh)
    # Of rounded frames another mean would come.
    assert len(of_frames.reads) == (0 if dtype == "float32" else 12) and read.reads == []
    ((states, lengths),) = read.batches([KEYS[4:7]])
    assert states[0].shape == (3, 1, 6) and lengths.tolist() == [1, 1, 1]


def test_float16_is_the_same_kept_or_not_and_its_error_is_measured(stored_upstream: Upstream, tmp_path: Path) -> None:
    half = Frozen(stored_upstream, tmp_path, dtype="float16").filled_with()
    full = Frozen(stored_upstream, tmp_path).filled_with()
    assert same(answers(half), answers(Frozen(stored_upstream, None, dtype="float16")))
    assert half.filled.bytes * 2 == full.filled.bytes
    error = relative_error(half, KEYS[:3])
    assert error is not None and len(error) == 2 and all(1e-5 < one < 1e-3 for one in error)
    assert relative_error(full, KEYS[:3]) is None


def test_what_float16_cannot_hold_is_an_error_that_says_so(stored_upstream: Upstream, tmp_path: Path) -> None:
    loud = Three().eval()
    nn.init.constant_(loud.parts[0].weight, 1e5)
    with pytest.raises(HeadwaterError, match="beyond what float16 can hold: leave out --cache-dtype"):
        Frozen(loud, tmp_path, dtype="float16").filled_with()


def test_any_number_of_workers_leaves_the_same_bytes(stored_upstream: Upstream, tmp_path: Path) -> None:
    Frozen(stored_upstream, tmp_path / "1").filled_with()
    for ranks in (2, 3):
        root, barrier = tmp_path / str(ranks), threading.Barrier(ranks)
        team = [Frozen(stored_upstream, root) for _ in range(ranks)]
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
    stored_upstream: Upstream, stored_answers: dict[str, list[Tensor]], tmp_path: Path
) -> None:
    barrier = threading.Barrier(2)
    team = [Frozen(stored_upstream, tmp_path / str(rank)) for rank in range(2)]
    threads = [
        threading.Thread(target=one.filled_with, args=(KEYS, Workers(rank, 2, barrier.wait)))
        for rank, one in enumerate(team)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in team:
        assert not one._held and same(answers(one), stored_answers)
