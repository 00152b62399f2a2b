"""Convolutional layers as a setting: fairseq's text, `[(512, 10, 5)] + [(512, 3, 2)] * 4`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from headwater.errors import UsageError
from headwater.fairseq import conv_layers
from headwater.nn.convolution import Window


def _checked(text: str) -> str:
    try:
        conv_layers(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return text


Layers = Annotated[str, AfterValidator(_checked)]


def windows_of(text: str) -> list[Window]:
    """How each layer sees time."""
    return [Window(kernel, stride) for _, kernel, stride in conv_layers(text)]


def dims_of(text: str) -> list[int]:
    """Channels that each layer gives."""
    return [dim for dim, _, _ in conv_layers(text)]
