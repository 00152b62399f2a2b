"""What a machine can do: the peak of matrix products in float32 and bfloat16, memory bandwidth; and how many operations a model takes.

Peaks are the best of several ways and shapes (torch's product of large squares; oneDNN's with a prepared weight, in the shapes of a Transformer; all threads
at one product, and one product a thread), so that a share of the peak is never flattered by a weak yardstick. Bandwidth is that of copying 256 MiB a thread,
what is read and what is written counted.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from headwater.errors import UsageError
from headwater.nn.packed import require_bfloat16

Clock = Callable[[], float]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = ((2048, 2048, 2048), (512, 3072, 768), (1024, 768, 3072))  # rows, inner, columns
SQUARES = (4096, 8192)  # of accelerators


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` threads of torch for the caller."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rate(
    call: Callable[[], object], work: float, seconds: float, workers: int = 1, clock: Clock = time.perf_counter
) -> float:
    """Work a second of `workers` threads that each call again and again; the best of five equal parts of `seconds`."""

    def busy(until: float) -> int:
        if workers > 1:
            torch.set_num_threads(1)
        count = 0
        while clock() < until:
            call()
            count += 1
        return count

    call()
    best = 0.0
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(5):
            begun = clock()
            counts = list(pool.map(busy, [begun + seconds / 5] * workers))
            best = max(best, sum(counts) * work / (clock() - begun))
    return best


def matmul_peak(dtype: str, count: int, seconds: float = 1.0, clock: Clock = time.perf_counter) -> float:
    """Operations a second (a multiplication and an addition are two) of matrix products on `count` threads."""
    best = 0.0
    generator = torch.Generator().manual_seed(0)
    ways = 3 * len(SHAPES) if count > 1 else 2 * len(SHAPES)
    before = torch.get_num_threads()
    for rows, inner, columns in SHAPES:
        x = torch.randn(rows, inner, generator=generator).to(DTYPES[dtype])
        weight = torch.randn(columns, inner, generator=generator).to(DTYPES[dtype])
        work = 2.0 * rows * inner * columns
        across = weight.t().contiguous()
        calls: list[Callable[[], Tensor]] = [lambda x=x, y=across: x @ y]  # type: ignore[misc]
        if torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            calls.append(lambda x=x, y=packed: torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], ""))  # type: ignore[misc]
        with torch.no_grad(), threads(count):
            best = max(best, *(rate(call, work, seconds / ways, clock=clock) for call in calls))
        if count > 1:
            best = max(best, rate(calls[-1], work, seconds / ways, count, clock))
            torch.set_num_threads(before)  # the workers set that of threads to come
    return best


def accelerator_peak(device: torch.device, dtype: str, seconds: float = 1.0) -> float:
    """The same of an accelerator, by products of large squares, in the precision of `torch.get_float32_matmul_precision()`."""
    best = 0.0
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.accelerator.synchronize
    for side in SQUARES:
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(side, side, device=device, generator=generator).to(DTYPES[dtype])

        def product(x: Tensor = x) -> None:
            for _ in range(10):
                x @ x
            wait(device)

        best = max(best, rate(product, 10 * 2.0 * side**3, seconds / len(SQUARES)))
    return best


def bandwidth(count: int, seconds: float = 1.0) -> float:
    """Bytes a second."""
    source, target = torch.ones(count, 2**26), torch.empty(count, 2**26)
    with threads(count):
        return rate(lambda: target.copy_(source), 2.0 * source.nbytes, seconds)


def count_flops(call: Callable[[], Any]) -> float:
    """Operations of matrix products, convolutions and attention in what `call` does with torch's own operators."""

    def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    # torch counts the attention of other devices only.
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    ) as counter:
        call()
    return float(counter.get_total_flops())


def describe(count: int) -> str:
    parts = [f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()}"]
    parts += ["AVX512_BF16"] if torch.cpu._is_avx512_bf16_supported() else []
    parts += ["AMX"] if torch.cpu._is_amx_tile_supported() else []
    return f"{', '.join(parts)}), {count} thread(s), torch {torch.__version__}"


def dtypes(device: torch.device) -> list[str]:
    """Those that an encoder may compute in on this device (`--extract-dtype`), float32 first."""
    try:
        require_bfloat16(device)
    except UsageError:
        return ["float32"]
    return list(DTYPES)


def limits(count: int, seconds: float = 0.6) -> str:
    """The machine and its measured peaks in one line, to stand beside whatever was measured on it."""
    peaks = [f"{dtype} {matmul_peak(dtype, count, seconds) / 1e9:.0f} GFLOP/s" for dtype in dtypes(torch.device("cpu"))]
    return f"{describe(count)}; peaks: {', '.join(peaks)}, memory {bandwidth(count, seconds) / 1e9:.1f} GB/s"


def forget_peak_memory() -> None:
    """What `peak_memory` says counts from here on, where the system can forget (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def peak_memory() -> int:
    """Bytes of main memory that this process had at its peak; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
