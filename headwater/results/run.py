"""The run folder: what it is called, who may write to it, and what it holds."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from headwater.config import RunConfig, TrainingConfig
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.results.files import write_bytes, write_json
from headwater.settings import read_yaml, validate

OURS = (
    "config.yaml",
    "identity.json",
    "result.json",
    "scores",
    "model.safetensors",
    "model.json",
    "checkpoint",
    "plots",
    "audio",
    "report.html",
    "plugin",
    "upstream.safetensors",
)
_UNFINISHED = re.compile(r"\..+\.\d+\.tmp")  # what a killed `write_bytes` leaves behind
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunFolder:
    """One evaluation on disk, or with another `kind` of settings one pretraining. Nothing is created before `begin`."""

    def __init__(self, path: Path, kind: type[TrainingConfig] = RunConfig) -> None:
        self.path, self.kind = path, kind
        self._lock: FileLock | None = None
        self._made = False

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").is_file()

    @property
    def begun(self) -> bool:
        return (self.path / "identity.json").is_file()

    def check(self, identity: Mapping[str, Any], *, fresh: bool) -> None:
        """`UsageError` where this folder cannot take a run of this identity: other settings, somebody's files, no right to write.

        Writes nothing.
        """
        path = self.path
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; a run needs a folder")
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UsageError(f"{parent}: cannot be written to; choose another folder with -p")
        if not path.exists() or not any(path.iterdir()):
            return
        if not self.begun:
            strangers = sorted(
                child.name
                for child in path.iterdir()
                if not child.name.startswith(".") and not (child.name == "config.yaml" and self._configured)
            )
            if strangers:
                raise UsageError(f"{path} holds other things ({', '.join(strangers[:3])}); give a new or empty folder")
            return
        if fresh:
            return
        held = self._json("identity.json")
        changed = [
            f"  {key}: {held.get(key)!r} there, {identity.get(key)!r} now"
            for key in sorted({*held, *identity})
            if held.get(key) != identity.get(key)
        ]
        if changed:
            lines = "\n".join(changed)
            raise UsageError(
                f"{path} holds a run with other settings:\n{lines}\nGive the run another name (-n), or start it over with --fresh."
            )

    @property
    def _configured(self) -> bool:
        """Whether config.yaml is one of ours: a run that was killed right at its start has nothing else."""
        try:
            validate(self.kind, read_yaml(self.path / "config.yaml"))
        except HeadwaterError:
            return False
        return True

    def begin(self, config: TrainingConfig, identity: Mapping[str, Any], *, fresh: bool) -> None:
        """Create the folder, lock it against other processes, and write the settings. `release` belongs to it, whether it succeeds or not."""
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            kind = HeadwaterError if error.errno in _FULL else UsageError
            raise kind(f"{self.path}: cannot be created ({error.strerror}); choose another folder with -p") from None
        lock = FileLock(str(self.path / ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"{self.path}: another process is writing this run; wait for it, or give this one another name (-n)"
            ) from None
        except OSError as error:
            kind = HeadwaterError if error.errno in _FULL else UsageError
            raise kind(f"{self.path}: cannot be written to ({error.strerror}); choose another folder with -p") from None
        self._lock = lock
        for file in self.path.rglob(".*.tmp"):
            if _UNFINISHED.fullmatch(file.name):
                file.unlink(missing_ok=True)
        if fresh or not self.begun:
            # Not begun, yet not empty: a start over that was killed half way.
            self.clear()
        if not self.begun:
            write_bytes(
                self.path / "config.yaml",
                yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode(),
            )
            write_json(self.path / "identity.json", dict(identity))

    def clear(self) -> None:
        """Remove what runs write, and nothing else."""
        for child in self.path.iterdir():
            if child.name in OURS or child.name.startswith("events."):
                shutil.rmtree(child) if child.is_dir() else child.unlink()

    def release(self) -> None:
        """Give the lock back; a folder that `begin` made and could write nothing to goes, too."""
        if self._lock is not None:
            # In this order: afterwards the file may be the lock of the next process.
            (self.path / ".lock").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
        if self._made:
            with suppress(OSError):
                self.path.rmdir()

    def result(self) -> dict[str, Any]:
        from headwater.results.table import load_metrics, load_result

        if self.kind is not RunConfig:
            return self._json("result.json")
        result = load_result(self.path)
        for split in result["metrics"]:
            load_metrics(self.path, split)
        return result

    def model(self) -> dict[str, Any]:
        return self._json("model.json")

    def config(self) -> RunConfig:
        return validate(RunConfig, read_yaml(self.path / "config.yaml"))

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{self.path} is no finished run: it has no {name}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not readable as JSON ({error})") from None
        if not isinstance(content, dict):
            raise DataError(f"{file}: holds no JSON object")
        return content
