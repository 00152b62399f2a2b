"""Short runs of tasks from the command line, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpora import make_corpus

QUICK = ("-o", "runner.total_steps=30,,runner.eval_step=10,,runner.log_step=10,,runner.save_step=10")
Command = Callable[..., Any]


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def tiny(folder: Path) -> Path:
    """A table of 15 utterances of three speakers."""
    return make_corpus(folder, "csv", speakers=3, utterances=5)


def short_run(upstream: str, task: str, *more: Any) -> tuple[Any, ...]:
    """The words of a run of thirty steps."""
    return "run", "-u", upstream, "-d", task, *more, *QUICK


def short_phones(upstream: str, data: Path, labels: Path, *more: Any) -> tuple[Any, ...]:
    """The words of a run of thirty steps on labelled frames."""
    return short_run(upstream, "phone", "--data", data, "-o", f"data.labels={labels}", *more)
