"""What the machine can do: the peak of matrix products in float32 and bfloat16, memory bandwidth; and how many operations a model takes.

    python bench/machine.py [--threads 2] [--seconds 5]

Peaks are the best of several ways and shapes (torch's product of large squares; oneDNN's with a prepared weight, in the shapes of a Transformer; all threads
at one product, and one product a thread), so that a share of the peak is never flattered by a weak yardstick. Bandwidth is that of copying 256 MiB a thread,
what is read and what is written counted.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Clock = Callable[[], float]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = ((2048, 2048, 2048), (512, 3072, 768), (1024, 768, 3072))  # rows, inner, columns


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Peaks of this machine.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=5.0, help="a measurement")
    args = parser.parse_args()
    print(describe(args.threads))
    for dtype in DTYPES:
        print(f"{dtype:<9} {matmul_peak(dtype, args.threads, args.seconds) / 1e9:6.0f} GFLOP/s")
    print(f"memory    {bandwidth(args.threads, args.seconds) / 1e9:6.1f} GB/s")


if __name__ == "__main__":
    main()
