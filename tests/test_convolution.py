"""Convolutions over time: lengths, timing, and norms that see valid frames alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from headwater.errors import UsageError
from headwater.fairseq import conv_layers
from headwater.nn.conv_transformer import ConvTransformer
from headwater.nn.convolution import (
    ChannelNorm,
    ConvLayer,
    FrameBatchNorm,
    TimeNorm,
    Window,
    frame_counts,
    needed,
    output_lengths,
    ready,
    timing,
)
from headwater.nn.quantizers import KmeansQuantizer
from headwater.nn.recurrent import pack, unpack

WINDOWS = st.lists(
    st.builds(
        lambda k, s, p: Window(k, s, min(p, (k - 1) // 2)), st.integers(1, 10), st.integers(1, 5), st.integers(0, 3)
    ),
    min_size=1,
    max_size=5,
)


def batch(seed: int, channels: int, *lengths: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rows (channels, length), a batch of them with garbage beyond each, and the lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(channels, length, generator=generator) for length in lengths]
    padded = 5 + torch.randn(len(rows), channels, max(lengths), generator=generator)
    for row, target in zip(rows, padded):
        target[:, : row.shape[1]] = row
    return rows, padded, torch.tensor(lengths)


def chain(lengths: Tensor, windows: list[Window]) -> Tensor:
    for window in windows:
        lengths = output_lengths(lengths, window)
    return lengths


@settings(max_examples=60, deadline=None)
@given(windows=WINDOWS, samples=st.integers(1, 3000))
def test_lengths_are_those_of_torch(windows: list[Window], samples: int) -> None:
    x, frames, _ = ready(torch.ones(1, samples, 1), torch.tensor([samples]), windows)
    for window in windows:
        x = nn.functional.conv1d(x, torch.ones(1, 1, window.kernel), stride=window.stride, padding=window.padding)
    assert x.shape[2] == int(frames) == int(frame_counts(torch.tensor([samples]), windows)) >= 1


@settings(max_examples=60, deadline=None)
@given(windows=WINDOWS, frames=st.integers(1, 20))
def test_needed_samples_are_the_fewest(windows: list[Window], frames: int) -> None:
    least = needed(windows, frames)
    assert int(chain(torch.tensor(least), windows)) >= frames
    assert least == 1 or int(chain(torch.tensor(least - 1), windows)) < frames or needed(windows[1:], frames) == 1


def test_timing_is_that_of_the_published_models() -> None:
    wav2vec2 = [Window(10, 5), *[Window(3, 2)] * 4, *[Window(2, 2)] * 2]
    wav2vec = [Window(10, 5), Window(8, 4), *[Window(4, 2)] * 3]
    cpc = [Window(10, 5, 3), Window(8, 4, 2), *[Window(4, 2, 1)] * 3]
    assert [timing(windows) for windows in (wav2vec2, wav2vec, cpc)] == [(320, 200.0), (160, 232.5), (160, 79.5)]
    assert [needed(windows) for windows in (wav2vec2, wav2vec, cpc)] == [400, 465, 159]


@settings(max_examples=30, deadline=None)
@given(windows=WINDOWS, seed=st.integers(0, 99))
def test_a_frame_lies_where_timing_says(windows: list[Window], seed: int) -> None:
    """The centre of mass of what a frame sees, by its gradient."""
    stride, offset = timing(windows)
    length = needed(windows, 9)
    x = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    y = x
    for window in windows:
        y = nn.functional.conv1d(
            y, torch.ones(1, 1, window.kernel, dtype=torch.float64), stride=window.stride, padding=window.padding
        )
    frame = 4
    (seen,) = torch.autograd.grad(y[0, 0, frame], x)
    centres = torch.arange(length, dtype=torch.float64) + 0.5
    middle = offset + frame * stride
    if middle - timing(windows)[1] >= 0 and float(seen[0, 0, 0]) == 0 == float(seen[0, 0, -1]):
        assert float((seen[0, 0] * centres).sum() / seen.sum()) == pytest.approx(middle)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("affine", [True, False])
def test_time_norm_is_group_norm_of_each_row_alone(groups: int, affine: bool) -> None:
    rows, padded, lengths = batch(0, 6, 20, 7, 1)
    norm = TimeNorm(groups, 6, affine=affine)
    if norm.weight is not None and norm.bias is not None:
        generator = torch.Generator().manual_seed(1)
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)
    # In float64, as of a single frame torch's float32 is a difference of large numbers.
    exact = copy.deepcopy(norm).double()
    found = norm(padded, lengths)
    for row, y in zip(rows, found):
        expected = torch.group_norm(row[None].double(), groups, exact.weight, exact.bias)[0].float()
        torch.testing.assert_close(y[:, : row.shape[1]], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            norm(row[None], None)[0], torch.group_norm(row[None], groups, norm.weight, norm.bias)[0]
        )


def test_channel_norm_is_a_layer_norm_of_each_frame() -> None:
    x = torch.randn(2, 8, 5)
    norm = ChannelNorm(8)
    torch.testing.assert_close(norm(x), nn.functional.layer_norm(x.transpose(1, 2), (8,)).transpose(1, 2))
    scaled = ChannelNorm(8, unbiased=True, eps=0.0)(x) / ChannelNorm(8, eps=0.0)(x)
    torch.testing.assert_close(scaled, torch.full_like(scaled, (7 / 8) ** 0.5))


def test_batch_statistics_in_training_are_those_of_valid_frames() -> None:
    rows, padded, lengths = batch(1, 4, 9, 5)
    ours, theirs = FrameBatchNorm(4), nn.BatchNorm1d(4)
    y, expected = ours(padded, lengths), theirs(torch.cat(rows, 1)[None])[0]
    torch.testing.assert_close(torch.cat([y[0, :, :9], y[1, :, :5]], 1), expected)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval()
    torch.testing.assert_close(ours(padded, lengths)[1, :, :5], ours(rows[1][None])[0])


@pytest.mark.parametrize("window", [Window(5, 1, 2), Window(4, 2, 1), Window(3, 2)])
def test_a_layer_sees_nothing_beyond_the_end(window: Window) -> None:
    rows, padded, lengths = batch(2, 3, 30, 17)
    layer = ConvLayer(3, 4, window, bias=True, norm=TimeNorm(1, 4), activation=torch.tanh)
    y, out = layer(padded, lengths)
    assert out is not None
    for row, found, length in zip(rows, y, out.tolist()):
        (alone,), _ = layer(row[None], None)
        torch.testing.assert_close(found[:, :length], alone, atol=1e-5, rtol=1e-5)


def test_the_encoder_is_exact_in_a_batch_and_zero_beyond() -> None:
    encoder = ConvTransformer(8, 2, 2, 12, kernel=6, groups=2).eval()
    rows, padded, lengths = batch(3, 8, 12, 5)
    states = encoder(padded.transpose(1, 2), lengths)
    alone = encoder(rows[1].T[None], torch.tensor([5]))
    for one, two in zip(states, alone, strict=True):
        assert not one[1, 5:].any()
        torch.testing.assert_close(one[1, :5], two[0], atol=1e-5, rtol=1e-5)


def test_recurrent_nets_see_valid_frames_alone() -> None:
    rows, padded, lengths = batch(4, 3, 9, 4)
    net = nn.GRU(3, 5, batch_first=True)
    y = unpack(net(pack(padded.transpose(1, 2), lengths))[0], 11)
    assert y.shape == (2, 11, 5) and not y[1, 4:].any()
    torch.testing.assert_close(y[1, :4], net(rows[1].T[None])[0][0])


def test_the_nearest_entry_is_found_by_its_distance() -> None:
    quantizer = KmeansQuantizer(6, entries=9, groups=2, shared=False).eval()
    nn.init.normal_(quantizer.codebook)
    x = torch.randn(2, 7, 6)
    found = quantizer(x)
    projected = quantizer.norm(quantizer.projection(x.transpose(1, 2)), None).transpose(1, 2).unflatten(-1, (2, 3))
    distances = (projected[:, :, None] - quantizer.codebook).norm(dim=-1)
    assert torch.equal(found.codes, distances.argmin(2))
    torch.testing.assert_close(found.codewords[0, 0, :3], quantizer.codebook[found.codes[0, 0, 0], 0])


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("[(512, 10, 5)] + [(512,3,2)] * 2", [(512, 10, 5), (512, 3, 2), (512, 3, 2)]),
        ("[(8, 2, 1), [4, 1, 1]]", [(8, 2, 1), (4, 1, 1)]),
    ],
)
def test_layers_are_read_from_text(text: str, layers: list[tuple[int, int, int]]) -> None:
    assert conv_layers(text) == layers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "512",
        "[(512, 10)]",
        "[(512, 10, 0)]",
        "[(512, 10, 1.5)]",
        "[(512, 10, True)]",
        "[(1, 1, 1)] * 10**9",
        "[(1, 1, 1)] * 65",
        "([(1, 1, 1)] * 64) * 64",
        "__import__('os').system('true')",
        "[(x, 1, 1) for x in range(9)]",
        "(" * 3000,
        "[(1, 1, 1)" + ", (1, 1, 1)" * 5000 + "]",
        "[(1, 1, 1)]\x00",
    ],
)
def test_anything_else_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(UsageError, match="is no list of"):
        conv_layers(text)
