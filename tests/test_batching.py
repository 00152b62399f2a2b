"""Batches, lengths and time: every item once, every label on its nearest frame, every utterance the same in any company."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from headwater.audio.frontends import build_frontend
from headwater.data.batching import deal, pack, plan_epoch, plan_evaluation, windows
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.nn.featurizer import Featurizer
from headwater.nn.heads import FrameClassifier, PooledLinear, splice
from headwater.nn.lengths import frame_index, mask, pad, zero_beyond
from headwater.nn.pooling import mean_pool
from headwater.nn.specaug import spec_augment
from headwater.nn.upstream import ForeignUpstream, Upstream, UpstreamSpec
from headwater.store.compute import READERS
from headwater.store.features import FrozenFeatures
from headwater.store.plan import bytes_of, count_frames

durations = st.lists(st.floats(0.01, 40.0, allow_nan=False), min_size=1, max_size=120).map(np.array)
quick = settings(max_examples=60, deadline=None)


@quick
@given(durations, st.integers(1, 9), st.floats(0.5, 90.0), st.integers(0, 9), st.integers(0, 9))
def test_an_epoch_holds_every_item_once_in_batches_within_both_limits(
    seconds: np.ndarray, size: int, most: float, seed: int, epoch: int
) -> None:
    for batches in (
        plan_epoch(seconds, size=size, max_seconds=most, seed=seed, epoch=epoch),
        plan_evaluation(seconds, size=size, max_seconds=most),
    ):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(seconds)))
        for batch in batches:
            assert 1 <= len(batch) <= size
            assert len(batch) == 1 or len(batch) * seconds[batch].max() <= most


@quick
@given(durations, st.integers(0, 5), st.integers(0, 5))
def test_the_plan_of_an_epoch_is_a_pure_function_of_its_arguments(seconds: np.ndarray, seed: int, epoch: int) -> None:
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    held = seconds.copy()
    plans = [plan_epoch(seconds, size=4, max_seconds=50, seed=seed, epoch=epoch) for _ in range(2)]
    assert [batch.tolist() for batch in plans[0]] == [batch.tolist() for batch in plans[1]]
    assert (seconds == held).all()
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    seconds = np.linspace(1, 9, 50)
    orders = {
        tuple(np.concatenate(plan_epoch(seconds, size=4, max_seconds=50, seed=seed, epoch=epoch)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_a_full_batch_is_not_cut_short() -> None:
    assert [len(batch) for batch in pack(np.arange(10), np.ones(10), size=4, max_seconds=100)] == [4, 4, 2]
    assert [len(batch) for batch in pack(np.arange(10), np.ones(10), size=99, max_seconds=3)] == [3, 3, 3, 1]


@quick
@given(st.integers(1, 20), st.integers(1, 7))
def test_ranks_share_a_batch_out_completely_and_evenly(count: int, ranks: int) -> None:
    batch = np.arange(100, 100 + count)
    shares = [deal(batch, rank, ranks) for rank in range(ranks)]
    assert sorted(np.concatenate(shares).tolist()) == batch.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@quick
@given(st.integers(0, 20), st.integers(1, 6))
def test_windows_hold_all_batches_in_order_the_last_partial_one_too(count: int, accumulate: int) -> None:
    batches = [np.array([number]) for number in range(count)]
    groups = windows(batches, accumulate)
    assert [int(batch[0]) for group in groups for batch in group] == list(range(count))
    assert len(groups) == math.ceil(count / accumulate)
    assert all(len(group) == accumulate for group in groups[:-1])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 200_000), min_size=1, max_size=20),
    st.integers(1, 500),
    st.integers(1, 640),
    st.integers(-800, 1600),
)
def test_a_label_takes_the_nearest_frame_that_exists(centres: list[int], length: int, stride: int, halves: int) -> None:
    offset = halves / 2
    index = frame_index(torch.tensor([centres]), torch.tensor([length]), stride, offset)[0]
    expected = [
        min(max(math.floor((centre - Fraction(halves, 2)) / stride + Fraction(1, 2)), 0), length - 1)
        for centre in centres
    ]
    assert index.tolist() == expected
    distance = np.abs(np.arange(length)[None, :] * stride + offset - np.array(centres)[:, None])
    assert (distance[np.arange(len(centres)), index.numpy()] == distance.min(1)).all()


def test_labels_of_25_ms_windows_take_their_own_frame_where_frames_are_centred_elsewhere() -> None:
    centres = (200 + 160 * torch.arange(5))[None]
    assert frame_index(centres, torch.tensor([9]), 160, 200.0).tolist() == [[0, 1, 2, 3, 4]]
    assert frame_index(centres, torch.tensor([9]), 160, 0.0).tolist() == [[1, 2, 3, 4, 5]]
    assert frame_index(centres, torch.tensor([9]), 320, 200.0).tolist() == [[0, 1, 1, 2, 2]]


def test_padding_never_counts() -> None:
    items = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (3, 1, 7)]
    x, lengths = pad(items)
    assert lengths.tolist() == [3, 1, 7] and x.shape == (3, 7, 4)
    assert mask(lengths, 7).sum(1).tolist() == [3, 1, 7]
    dirty = x.masked_fill(~mask(lengths, 7)[:, :, None], torch.nan)
    assert torch.equal(zero_beyond(dirty, lengths), x)
    torch.testing.assert_close(mean_pool(dirty, lengths), torch.stack([item.mean(0) for item in items]))
    for context in (1, 3, 5):
        together = splice(x, lengths, context)
        for row, item in enumerate(items):
            alone = splice(item[None], torch.tensor([len(item)]), context)[0]
            assert torch.equal(together[row, : len(item)], alone)
            edges = torch.cat([item[:1]] * (context // 2) + [item] + [item[-1:]] * (context // 2))
            assert torch.equal(alone, edges.unfold(0, context, 1).transpose(1, 2).flatten(1))


def test_a_pooled_head_says_the_same_of_the_mean_as_of_the_frames() -> None:
    torch.manual_seed(0)
    x, lengths = pad([torch.randn(n, 6) for n in (4, 9)])
    for projector in (0, 5):
        head = PooledLinear(6, 3, projector)
        by_frame = head.classifier(head.projector(x))
        expected = torch.stack([by_frame[row, :length].mean(0) for row, length in enumerate(lengths.tolist())])
        torch.testing.assert_close(head(x, lengths), expected)
        torch.testing.assert_close(head(mean_pool(x, lengths)[:, None], torch.ones(2)), expected)
    assert FrameClassifier(6, 3, hidden=4, context=3)(x, lengths).shape == (2, 9, 3)


@quick
@given(st.integers(0, 99), st.integers(0, 3), st.integers(0, 30), st.integers(0, 3), st.integers(0, 30))
def test_specaugment_masks_bands_of_allowed_width_and_nothing_else(
    seed: int, time_masks: int, time_width: int, frequency_masks: int, frequency_width: int
) -> None:
    torch.manual_seed(seed)
    lengths = torch.tensor([20, 5, 1])
    x = torch.rand(3, 20, 12) + 1
    y = spec_augment(
        x,
        lengths,
        time_masks=time_masks,
        time_width=time_width,
        frequency_masks=frequency_masks,
        frequency_width=frequency_width,
    )
    assert ((y == x) | (y == 0)).all()
    for row, length in enumerate(lengths.tolist()):
        hidden = y[row, :length] == 0
        frames, dims = hidden.all(1), hidden.all(0)
        if frames.all() or dims.all():
            continue
        # Everything that is hidden is a whole frame or a whole dim.
        assert torch.equal(hidden, frames[:, None] | dims[None, :])
        assert frames.sum() <= time_masks * time_width and dims.sum() <= frequency_masks * frequency_width
    assert torch.equal(y[1, 5:] == 0, (y[1] == 0).all(0).expand(15, 12)), "frames beyond an utterance have no time mask"


def test_specaugment_reaches_both_ends_and_its_full_width() -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 9, 7)
    y = spec_augment(x, torch.full((400,), 9), time_masks=1, time_width=3, frequency_masks=0, frequency_width=0)
    hidden = (y == 0).all(2)
    assert set(hidden.sum(1).tolist()) == {0, 1, 2, 3} and hidden[:, 0].any() and hidden[:, -1].any()
    y = spec_augment(x, torch.full((400,), 9), time_masks=0, time_width=0, frequency_masks=1, frequency_width=2)
    hidden = (y == 0).all(1)
    assert set(hidden.sum(1).tolist()) == {0, 1, 2} and hidden[:, 0].any() and hidden[:, -1].any()


def spec(*dims: int) -> UpstreamSpec:
    return UpstreamSpec("model", 16000, 160, 200.0, dims[-1], dims, tuple(f"layer {i}" for i in range(len(dims))))


def states(*dims: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 5, dim, generator=generator) for dim in dims)


def test_the_featurizer_is_the_softmax_weighted_sum_of_the_layers() -> None:
    featurizer = Featurizer(spec(4, 4, 4))
    layers = states(4, 4, 4)
    torch.testing.assert_close(featurizer(layers), sum(layers) / 3)
    assert featurizer.weights is not None
    featurizer.weights.data = torch.tensor([0.0, 1.0, -2.0])
    shares = np.exp([0.0, 1.0, -2.0]) / np.exp([0.0, 1.0, -2.0]).sum()
    torch.testing.assert_close(
        featurizer(layers), sum(float(share) * layer for share, layer in zip(shares, layers, strict=True))
    )
    assert featurizer.layer_weights() == pytest.approx(shares.tolist())
    featurizer(layers).sum().backward()
    assert featurizer.weights.grad is not None and featurizer.weights.grad.abs().sum() > 0


def test_the_featurizer_normalises_each_layer_before_the_sum() -> None:
    one, two = states(4, 4)
    plain = Featurizer(spec(4, 4), normalize=True)((one, 1000 * two + 7))
    norms = [(s - s.mean(-1, keepdim=True)) / s.std(-1, unbiased=False, keepdim=True) for s in (one, two)]
    torch.testing.assert_close(plain, (norms[0] + norms[1]) / 2, rtol=1e-3, atol=1e-3)


def test_layers_are_picked_by_number_and_layers_of_other_widths_are_named() -> None:
    for number, expected in ((0, 0), (1, 1), (-1, 2), (-3, 0)):
        featurizer = Featurizer(spec(4, 4, 4), layer=number)
        assert featurizer.layers == (expected,) and featurizer.layer_names == (f"layer {expected}",)
        assert featurizer.weights is None and featurizer.layer_weights() == [1.0] and featurizer.left_out == ()
    assert Featurizer(spec(4, 4, 4), "last_hidden_state").layers == (2,)
    mixed = Featurizer(spec(6, 4, 4))
    assert mixed.layers == (1, 2) and mixed.left_out == ("layer 0",) and mixed.out_dim == 4
    assert Featurizer(spec(6, 4, 4), layer=0).out_dim == 6
    with pytest.raises(UsageError, match=r"no layer 3.*numbered 0 to 2"):
        Featurizer(spec(4, 4, 4), layer=3)


@dataclass(frozen=True)
class Key:
    id: str


class Mixer(nn.Module):
    """A convolution over time, so that neighbours in a batch could leak into each other."""

    out_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(80, 6, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    frontend = build_frontend({"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 80}}})
    torch.manual_seed(0)
    return ForeignUpstream(Mixer(), frontend).eval()


KEYS = [Key(f"u{number}") for number in range(12)]
WAVS = {
    key.id: 0.1 * torch.randn(1600 + 911 * n, generator=torch.Generator().manual_seed(n)) for n, key in enumerate(KEYS)
}


def gather(store: FrozenFeatures[Key], groups: Sequence[list[Key]]) -> dict[str, Tensor]:
    found = {}
    for group, ((padded,), lengths) in zip(groups, store.batches(groups), strict=True):
        for key, state, length in zip(group, padded, lengths.tolist(), strict=True):
            assert not state[length:].any()
            found[key.id] = state[:length]
    return found


def test_features_are_the_same_in_any_batch_and_held_or_not(upstream: Upstream) -> None:
    alone = {key.id: upstream.extract([WAVS[key.id]]).hidden_states[0][0].detach() for key in KEYS}
    for held in ([], KEYS[3:8], KEYS):
        store: FrozenFeatures[Key] = FrozenFeatures(upstream, (0,), lambda key: WAVS[key.id])
        store.fill(held)
        for groups in ([[key] for key in KEYS], [KEYS], [KEYS[:5], KEYS[5:7], KEYS[7:]], [KEYS[::-1]], [KEYS, KEYS]):
            found = gather(store, groups)
            assert found.keys() == alone.keys()
            assert all(torch.equal(found[name], alone[name]) for name in alone)


def test_on_cpu_an_utterance_is_computed_alone(upstream: Upstream) -> None:
    class Gregarious(Mixer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + len(x)

    twins = {key.id: WAVS["u0"] + 0.01 * number for number, key in enumerate(KEYS)}
    model = ForeignUpstream(Gregarious(), upstream.frontend).eval()
    store: FrozenFeatures[Key] = FrozenFeatures(model, (0,), lambda key: twins[key.id])
    alone, together = gather(store, [[key] for key in KEYS]), gather(store, [KEYS])
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_only_what_was_filled_stays_in_memory_and_is_read_once(upstream: Upstream) -> None:
    reads: list[str] = []

    def read(key: Key) -> Tensor:
        reads.append(key.id)
        return WAVS[key.id]

    store: FrozenFeatures[Key] = FrozenFeatures(upstream, (0,), read)
    done: list[int] = []
    store.fill([*KEYS[:4], KEYS[0]], done.append)
    assert sorted(reads) == sorted(key.id for key in KEYS[:4]) and sum(done) == 4
    gather(store, [KEYS])
    gather(store, [KEYS])
    assert sorted(reads[4:]) == sorted(key.id for key in KEYS[4:] * 2)


def test_the_plan_says_what_keeping_takes(upstream: Upstream) -> None:
    store: FrozenFeatures[Key] = FrozenFeatures(upstream, (0,), lambda key: WAVS[key.id])
    size = sum(state.numel() * 4 for state in gather(store, [KEYS]).values())
    samples = [len(wav) for wav in WAVS.values()]
    assert bytes_of(upstream, (0,), count_frames(upstream, samples)) == size
    assert bytes_of(upstream, (0,), len(KEYS), "float16") == 2 * 6 * len(KEYS)
    store.fill(KEYS)
    assert store.filled.bytes == size and all(store.holds(key) for key in KEYS)


def test_pooled_features_are_the_mean_over_the_utterance(upstream: Upstream) -> None:
    whole = gather(FrozenFeatures(upstream, (0,), lambda key: WAVS[key.id]), [KEYS])
    means = gather(FrozenFeatures(upstream, (0,), lambda key: WAVS[key.id], pooled=True), [KEYS])
    for name, mean in means.items():
        assert mean.shape == (1, 6)
        torch.testing.assert_close(mean[0], whole[name].mean(0), rtol=1e-5, atol=1e-5)


def test_an_error_while_reading_is_raised_and_not_swallowed(upstream: Upstream) -> None:
    def read(key: Key) -> Tensor:
        if key == KEYS[7]:
            raise DataError("u7.wav is broken")
        return WAVS[key.id]

    store: FrozenFeatures[Key] = FrozenFeatures(upstream, (0,), read)
    with pytest.raises(DataError, match=r"u7\.wav is broken"):
        store.fill(KEYS)
    with pytest.raises(DataError, match=r"u7\.wav is broken"):
        gather(store, [KEYS])


def test_reading_stays_a_little_ahead_whatever_the_length_of_an_epoch(upstream: Upstream) -> None:
    reads: list[str] = []

    def read(key: Key) -> Tensor:
        reads.append(key.id)
        return WAVS["u0"]

    store: FrozenFeatures[Key] = FrozenFeatures(upstream, (0,), read)
    stream = store.batches([[Key(str(number))] for number in range(500)])
    for _ in range(3):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 3 <= len(reads) <= 3 + 2 * (READERS + store.extractor.workers) + 1


def test_features_that_are_no_numbers_are_an_error_that_names_the_utterance(upstream: Upstream) -> None:
    class Broken(Mixer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (torch.nan if x.shape[1] < 12 else 1.0)

    broken = ForeignUpstream(Broken(), upstream.frontend).eval()
    store: FrozenFeatures[Key] = FrozenFeatures(broken, (0,), lambda key: WAVS[key.id])
    with pytest.raises(HeadwaterError, match="NaN or infinite features for the utterance 'u0'"):
        store.fill(KEYS[::-1])
