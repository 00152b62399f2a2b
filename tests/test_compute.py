"""Extraction: the bits of an utterance are its own, errors come in turn, and prepared weights change speed alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from acoustic import model
from torch import Tensor, nn
from torch.nn import functional

from headwater.audio.frontends import build_frontend
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.nn import packed
from headwater.nn.packed import Prepared, require_bfloat16
from headwater.nn.upstream import ForeignUpstream, Upstream
from headwater.store.compute import READERS, Extractor
from headwater.store.features import FrozenFeatures
from headwater.store.quality import relative_error

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Key:
    id: str


KEYS = [Key(f"u{number}") for number in range(10)]
WAVS = {
    key.id: 0.1 * torch.randn(1300 + 977 * n, generator=torch.Generator().manual_seed(n)) for n, key in enumerate(KEYS)
}


def computes_bfloat16() -> bool:
    try:
        require_bfloat16(CPU)
    except UsageError:
        return False
    return True


bfloat16 = pytest.mark.skipif(not computes_bfloat16(), reason="this CPU computes no bfloat16")
every_dtype = pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=bfloat16)])


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return model("post_norm", transformer={"hidden_size": 48, "intermediate_size": 96})


def read(key: Key) -> Tensor:
    return WAVS[key.id]


def extractor(
    upstream: Upstream, read: Callable[[Key], Tensor] = read, *, dtype: str = "float32", workers: int | None = None
) -> Extractor[Key]:
    return Extractor(upstream, range(upstream.num_layers), read, dtype=dtype, workers=workers)


def rows(found: Iterator[list[tuple[Tensor, ...]]], groups: Sequence[Sequence[Key]]) -> dict[str, tuple[Tensor, ...]]:
    return {
        key.id: row for group, some in zip(groups, found, strict=True) for key, row in zip(group, some, strict=True)
    }


def equal(one: dict[str, tuple[Tensor, ...]], two: dict[str, tuple[Tensor, ...]]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(a, b) for name in one for a, b in zip(one[name], two[name], strict=True)
    )


@every_dtype
def test_the_bits_of_an_utterance_depend_on_no_worker_thread_or_neighbour(upstream: Upstream, dtype: str) -> None:
    alone = rows(extractor(upstream, dtype=dtype, workers=1)([[key] for key in KEYS]), [[key] for key in KEYS])
    before = torch.get_num_threads()
    try:
        for threads, workers in ((1, 1), (1, 3), (2, 2), (2, None)):
            torch.set_num_threads(threads)
            for groups in ([KEYS], [KEYS[::-1]], [KEYS[:3], [], KEYS[3:4], KEYS[4:]]):
                found = rows(extractor(upstream, dtype=dtype, workers=workers)(groups), groups)
                assert equal(found, alone) and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_states_are_those_of_the_upstream_in_float32_and_can_be_learnt_from(upstream: Upstream) -> None:
    found = rows(extractor(upstream)([KEYS]), [KEYS])
    for key in KEYS:
        with torch.no_grad():
            expected = upstream.extract([WAVS[key.id]]).hidden_states
        for state, other in zip(found[key.id], expected, strict=True):
            assert state.dtype == torch.float32 and state.shape == other[0].shape
            assert float((state - other[0]).abs().max()) <= 1e-5 * float(other.square().mean().sqrt())
    head = nn.Linear(48, 2)
    head(found["u0"][-1]).sum().backward()
    assert head.weight.grad is not None


def test_only_the_layers_asked_for_are_given_in_their_order(upstream: Upstream) -> None:
    every = next(extractor(upstream)([KEYS[:1]]))[0]
    some = next(Extractor(upstream, (2, 0), read)([KEYS[:1]]))[0]
    assert [torch.equal(a, b) for a, b in zip(some, (every[2], every[0]), strict=True)] == [True, True]


def test_changed_weights_are_seen(upstream: Upstream) -> None:
    changed = model("post_norm", transformer={"hidden_size": 48, "intermediate_size": 96}, seed=1)
    source = extractor(changed)
    first = next(source([KEYS[:1]]))[0][-1]
    changed.load_state_dict(upstream.state_dict())
    second = next(source([KEYS[:1]]))[0][-1]
    assert not torch.equal(first, second)
    assert torch.equal(second, next(extractor(upstream)([KEYS[:1]]))[0][-1])


def test_an_error_comes_in_its_groups_turn_and_ends_the_reading(upstream: Upstream) -> None:
    started: list[str] = []

    def broken(key: Key) -> Tensor:
        started.append(key.id)
        if key.id == "3":
            raise DataError("3.wav is broken")
        time.sleep(0.001)
        return WAVS["u0"]

    source = extractor(upstream, broken, workers=2)
    found = source([[Key(str(number))] for number in range(500)])
    assert [len(next(found)) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(DataError, match=r"3\.wav is broken"):
        next(found)
    assert len(started) <= 4 + 2 * (READERS + 2) + 1


def test_whoever_stops_listening_stops_the_reading(upstream: Upstream) -> None:
    started: list[str] = []

    def count(key: Key) -> Tensor:
        started.append(key.id)
        return WAVS["u0"]

    before = threading.active_count()
    found = extractor(upstream, count, workers=2)([[Key(str(number))] for number in range(500)])
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(started) <= 1 + 2 * (READERS + 2) + 1
    assert threading.active_count() == before


def test_reading_and_computing_overlap(upstream: Upstream) -> None:
    """The second utterance is read although the first is not yet computed."""
    second = threading.Event()

    class Waiting(nn.Module):
        out_dim = 80

        def forward(self, x: Tensor) -> Tensor:
            assert second.wait(10)
            return x

    def told(key: Key) -> Tensor:
        if key.id == "u1":
            second.set()
        return WAVS[key.id]

    fbank = build_frontend({"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 80}}})
    source = extractor(ForeignUpstream(Waiting(), fbank).eval(), told, workers=1)
    assert len(list(source([[key] for key in KEYS[:2]]))) == 2


@every_dtype
def test_features_that_are_no_numbers_name_the_utterance(dtype: str) -> None:
    broken = model("post_norm")
    forward = broken.transformer.forward

    def spoilt(x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        states = forward(x, lengths)
        return (*states[:-1], states[-1] * (torch.inf if int(lengths[0]) == broken.frames(len(WAVS["u4"])) else 1.0))

    broken.transformer.forward = spoilt  # type: ignore[method-assign]
    with pytest.raises(HeadwaterError, match="NaN or infinite features for the utterance 'u4'"):
        list(extractor(broken, dtype=dtype)([KEYS]))


# bfloat16.


@bfloat16
@pytest.mark.parametrize("kind", ["post_norm", "pre_norm", "shared", "stacked"])
def test_bfloat16_is_near_float32_and_its_error_is_measured(kind: str) -> None:
    upstream = model(kind, task={"sequence_length": 30})
    layers = range(upstream.num_layers)
    errors = relative_error(FrozenFeatures(upstream, layers, read, extract_dtype="bfloat16"), KEYS)
    exact, found = (rows(extractor(upstream, dtype=dtype)([KEYS]), [KEYS]) for dtype in ("float32", "bfloat16"))
    assert errors is not None and 1e-5 < max(errors) < 0.05
    for layer, error in zip(layers, errors, strict=True):
        one, other = (torch.cat([states[key.id][layer] for key in KEYS]).double() for states in (exact, found))
        assert error == pytest.approx(float((other - one).square().mean().sqrt() / one.square().mean().sqrt()))
    assert relative_error(FrozenFeatures(upstream, layers, read), KEYS) is None


@bfloat16
def test_convolutions_and_front_ends_stay_in_float32() -> None:
    seen: list[torch.dtype] = []

    class Convolved(nn.Module):
        out_dim = 8

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(80, 16, 3, padding=1), nn.Conv1d(16, 8, 3, padding=1)
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            convolved = self.second(self.first(x.transpose(1, 2)))
            y = self.linear(convolved.transpose(1, 2))
            seen.extend([x.dtype, convolved.dtype, y.dtype])
            return y

    torch.manual_seed(0)
    fbank = build_frontend({"kaldi": {"feat_type": "fbank", "fbank": {"num_mel_bins": 80}}})
    (state,) = next(extractor(ForeignUpstream(Convolved(), fbank).eval(), dtype="bfloat16")([KEYS[:1]]))[0]
    assert seen == [torch.float32, torch.float32, torch.bfloat16] and state.dtype == torch.float32


def test_bfloat16_is_refused_by_name_where_the_device_lacks_it(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(UsageError, match=r"--extract-dtype bfloat16: this CPU"):
        extractor(upstream, dtype="bfloat16")


# Prepared weights.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (37, 24), (2, 700, 24)])
def test_a_prepared_linear_layer_gives_what_torch_gives(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(shape)
    prepared = Prepared(layer, CPU, torch.float32)
    with torch.no_grad():
        with prepared.context():
            found = layer(x)
        torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("stride", "padding", "batch", "bias"), [(5, 0, 1, True), (1, 0, 1, False), (2, 3, 1, True), (5, 0, 2, True)]
)
def test_the_first_convolution_on_a_waveform_gives_what_torch_gives(
    stride: int, padding: int, batch: int, bias: bool
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(1, 16, 10, stride, padding, bias=bias), nn.Linear(1, 1))
    x = torch.randn(batch, 1, 333)
    with torch.no_grad(), Prepared(module, CPU, torch.float32).context():
        found = module[0](x)
    torch.testing.assert_close(found, module[0](x).detach(), rtol=1e-5, atol=1e-6)


@bfloat16
@pytest.mark.parametrize("scores", [1, 2**19])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_in_bfloat16_gives_what_torch_gives(
    scores: int, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "SCORES", scores)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 61, 16)
    expected = functional.scaled_dot_product_attention(q, k, v, scale=scale)
    with torch.no_grad(), Prepared(nn.Linear(1, 1), CPU, torch.bfloat16).context():
        found = functional.scaled_dot_product_attention(q, k, v, scale=scale)
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    assert float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt()) < 0.02


def test_a_torch_without_onednn_gives_what_it_gives_anyway(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows(extractor(upstream)([KEYS]), [KEYS])
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    found = rows(extractor(upstream)([KEYS]), [KEYS])
    for key in KEYS:
        torch.testing.assert_close(found[key.id], expected[key.id], rtol=1e-4, atol=1e-5)


def test_a_weight_norm_is_computed_once_for_all_calls() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8)).eval()
    prepared = Prepared(module, CPU, torch.float32)
    x = torch.randn(3, 8)
    expected = module(x).detach()
    with torch.no_grad(), prepared.context():
        found = module(x)
        assert module[0].weight is module[0].weight
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert prepared.layers == [module[1]] and not prepared.stale
    with torch.no_grad():
        assert module[0].weight is not module[0].weight, "outside, it is the module's own"
        module[0].parametrizations.weight.original0.mul_(2)
    assert prepared.stale


def test_prepared_weights_act_in_the_thread_that_asked_for_them_only(upstream: Upstream) -> None:
    prepared = Prepared(upstream, CPU, torch.float32)
    x = torch.randn(1, 9, 16)
    gradients: list[bool] = []

    def train() -> None:
        upstream(x).sum().backward()
        gradients.extend(p.grad is not None for p in upstream.parameters())

    with torch.no_grad(), prepared.context():
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    upstream.zero_grad(set_to_none=True)
    assert gradients and all(gradients)


# Accelerators.


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_gives_what_the_cpu_gives(dtype: str) -> None:
    cpu = model("post_norm")
    device = torch.device("cuda")
    expected = rows(extractor(cpu)([KEYS]), [KEYS])
    source = Extractor(model("post_norm").to(device), range(cpu.num_layers), read, device=device, dtype=dtype)
    groups = [KEYS[:4], KEYS[4:]]
    for name, row in rows(source(groups), groups).items():
        for state, other in zip(row, expected[name], strict=True):
            assert state.device.type == "cuda" and state.dtype == torch.float32
            error = float((state.cpu() - other).square().mean().sqrt() / other.square().mean().sqrt())
            assert error < (1e-3 if dtype == "float32" else 0.05)
