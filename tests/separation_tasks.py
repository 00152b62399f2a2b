"""The separation task as the command line builds it, small, for tests."""

from __future__ import annotations

from typing import Any

import torch
from headwater.downstream.separation.expert import Separation
from mixture_corpora import RATE

from headwater.loading import load_upstream
from headwater.settings import validate

TINY = "task.net.N=16,,task.net.B=8,,task.net.H=8,,task.net.Sc=8,,task.net.X=2,,task.net.R=1,,task.net.L=16"
AT_8K = f"task.rate={RATE},,upstream.config.sample_rate={RATE}"
SYSTEMS = {
    "separation": ("stft_mag", f"task.rate={RATE},,task.superb.hidden=8,,task.superb.layers=1"),
    "separation_convtasnet": ("waveform", f"{AT_8K},,{TINY}"),
    "separation_joint": ("fbank", f"task.rate={RATE},,{TINY}"),
    "separation_oracle": ("waveform", AT_8K),
    "separation_one_and_rest": ("waveform", f"{AT_8K},,{TINY},,task.speakers=[2]"),
}


def task_of(name: str, *settings: str, data: object = "x") -> tuple[Separation, Any]:
    """A task, with a head as it is at the start, and its upstream."""
    from headwater.cli.run_settings import parser, settings_of
    from headwater.config import RunConfig
    from headwater.train.parts import build_task

    upstream, own = SYSTEMS[name]
    line = ["-u", upstream, "-d", name, "--data", str(data), "-o", ",,".join([own, *settings])]
    config = validate(RunConfig, settings_of(parser().parse_args(line))[0])
    built, model = build_task(config), load_upstream(upstream, config=config.upstream.config)
    torch.manual_seed(0)
    built.head(model.spec)
    assert isinstance(built, Separation)
    return built, model
