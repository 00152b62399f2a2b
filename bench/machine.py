"""What the machine can do: the peak of matrix products in float32 and bfloat16, and memory bandwidth.

    python bench/machine.py [--threads 2] [--seconds 5]

`headwater.speed.machine` says how they are measured.
"""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description="Peaks of this machine.")
    parser.add_argument("--threads", type=int, help="as many as torch takes when not given")
    parser.add_argument("--seconds", type=float, default=5.0, help="a measurement")
    args = parser.parse_args()
    import torch

    from headwater.speed.machine import bandwidth, describe, dtypes, matmul_peak

    count = args.threads or torch.get_num_threads()
    print(describe(count))
    for dtype in dtypes(torch.device("cpu")):
        print(f"{dtype:<9} {matmul_peak(dtype, count, args.seconds) / 1e9:6.0f} GFLOP/s")
    print(f"memory    {bandwidth(count, args.seconds) / 1e9:6.1f} GB/s")


if __name__ == "__main__":
    main()
