"""Classification: which class was taken for which."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import DataError


def confusion_matrix(
    labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]
) -> NDArray[np.int64]:
    """Counts (C, C) int64: row i, column j is how often class i was taken for class j, in the order of `classes`.

    Raises DataError when the two lists differ in length, a class is named twice, or a value is none of `classes`.
    """
    _same_length(labels, predictions)
    index = {name: i for i, name in enumerate(classes)}
    if len(index) != len(classes):
        raise DataError("A class is listed twice; list every class once.")
    rows, columns = (_indices(values, index) for values in (labels, predictions))
    size = len(classes)
    return np.bincount(rows * size + columns, minlength=size * size).astype(np.int64).reshape(size, size)


def accuracy(labels: Sequence[Any], predictions: Sequence[Any]) -> float:
    """The share in [0, 1] of predictions equal to their label. Raises DataError for empty lists or unequal lengths."""
    _same_length(labels, predictions)
    if not len(labels):
        raise DataError("There are no predictions: the accuracy of nothing is not defined.")
    return sum(bool(label == prediction) for label, prediction in zip(labels, predictions)) / len(labels)


def _same_length(labels: Sequence[Any], predictions: Sequence[Any]) -> None:
    if len(labels) != len(predictions):
        raise DataError(f"There are {len(labels)} labels but {len(predictions)} predictions; give one for each label.")


def _indices(values: Sequence[Hashable], index: dict[Hashable, int]) -> NDArray[np.int64]:
    try:
        return np.fromiter((index[value] for value in values), dtype=np.int64, count=len(values))
    except KeyError as error:
        raise DataError(f"{error.args[0]!r} is none of the {len(index)} classes.") from None
