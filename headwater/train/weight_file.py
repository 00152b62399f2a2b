"""A file of weights that a task starts from, or scores as it stands (`task.weights`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headwater.download import file_sha256
from headwater.errors import DataError


@dataclass(frozen=True)
class WeightFile:
    """sha256: of its bytes. It belongs into what a run is, beside the name: another file may come to lie there."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str) -> WeightFile:
        """Raises DataError for a file that is not there or cannot be read."""
        try:
            return cls(path, file_sha256(Path(path)))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None

    def __str__(self) -> str:
        return f"the weights of {self.path} (sha256 {self.sha256})"
