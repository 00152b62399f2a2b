"""Frozen modules at the speed of the machine: weights laid out for its matrix kernels once, under modules that know nothing of it.

torch lays out (and under autocast casts) the weight of a linear layer anew in every call. Where a frozen model is called thousands of times that is waste; and
on CPUs that are not Intel's, the library that torch asks for float32 products is not the fastest one that it carries. `Packed` hands linear layers to oneDNN
with weights prepared beforehand, and keeps convolutions out of bfloat16. It acts in the thread that enters it and nowhere else, and touches no module: the
same one can be trained, saved and called elsewhere as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from headwater.errors import UsageError

# Rows that the layout of a weight is chosen for: seconds of speech. Any number of rows can be computed.
ROWS = 512
# Scores of attention that stay in a core's cache between the two products.
SCORES = 2**19
CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d}


def require_bfloat16(device: torch.device) -> None:
    """`UsageError` where the device does not compute bfloat16 itself: emulated, it is slower than float32."""
    if device.type == "cpu":
        fits = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        if not (fits and torch.backends.mkldnn.is_available()):
            raise UsageError(
                "--extract-dtype bfloat16: this CPU has neither AVX512_BF16 nor AMX, where bfloat16 would be slower than float32; leave it out"
            )
    elif device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UsageError(
            f"--extract-dtype bfloat16: {torch.cuda.get_device_name(device)} computes no bfloat16 (Ampere and later do); leave it out"
        )


class Prepared:
    """The weights of the linear layers of a module, prepared for a device and a dtype (float32 or bfloat16); `context()` puts them to use.

    They take as much memory as the original ones (half of it in bfloat16). On other devices than CPU, and where torch was built without oneDNN, linear layers
    stay as they are. A weight norm's weight is computed once, on every device.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.layers = [
            layer
            for layer in module.modules()
            if isinstance(layer, nn.Linear)
            and layer._parameters.get("weight") is not None
            and layer.weight.dtype == torch.float32
            and layer.weight.device.type == "cpu"
        ]
        if device.type != "cpu" or not _has_onednn():
            self.layers = []
        self.normed = [
            norm for norm in module.modules() if isinstance(norm, ParametrizationList) and _is_weight_norm(norm)
        ]
        self.version = self._version()
        self.weights, self.folded = _pack(self.layers, dtype), _fold(self.normed)

    def _version(self) -> list[tuple[int, int]]:
        held = [p for layer in self.layers for p in (layer.weight, layer.bias) if p is not None]
        return [(id(p), p._version) for p in (*held, *(p for norm in self.normed for p in norm.parameters()))]

    @property
    def stale(self) -> bool:
        """Whether the module's weights were changed since; what torch does not count (fused optimizers, `.data`) is not seen."""
        return self._version() != self.version

    def context(self) -> AbstractContextManager[Any]:
        """For one forward pass without gradient, in one thread."""
        stack = ExitStack()
        if self.dtype != torch.float32:
            stack.enter_context(torch.autocast(self.device.type, dtype=self.dtype))
        stack.enter_context(Packed(self.weights, self.folded, self.device, self.dtype))
        return stack


def _has_onednn() -> bool:
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operators)


Weights = dict[int, tuple[Tensor, Tensor, Tensor | None]]
Folded = dict[int, tuple[Tensor, Tensor]]


@torch.no_grad()
def _pack(layers: Iterable[nn.Linear], dtype: torch.dtype) -> Weights:
    """Identity of the original -> the original, the prepared one, the bias in `dtype`. That the original is held keeps its identity its own."""
    return {
        id(layer.weight): (
            layer.weight,
            torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), ROWS),
            None if layer.bias is None else layer.bias.detach().to(dtype),
        )
        for layer in layers
    }


def _is_weight_norm(norm: ParametrizationList) -> bool:
    return len(norm) == 1 and isinstance(norm[0], _WeightNorm)


@torch.no_grad()
def _fold(normed: Iterable[ParametrizationList]) -> Folded:
    """Identity of the directions -> these, and the weight."""
    directions = ((norm, norm.original1) for norm in normed)
    return {id(held): (held, norm().detach()) for norm, held in directions if isinstance(held, Tensor)}


class Packed(TorchFunctionMode):
    """See `Prepared.context`."""

    def __init__(self, weights: Weights, folded: Folded, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights, self.folded, self.device, self.dtype = weights, folded, device, dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch._weight_norm and id(args[0]) in self.folded:
            return self.folded[id(args[0])][1]
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        if func in CONVOLUTIONS:
            with torch.autocast(self.device.type, enabled=False):
                return self._convolution(func, *args, **kwargs)
        if func is functional.scaled_dot_product_attention and self.dtype != torch.float32:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        _, packed, own = self.weights.get(id(weight), (None, None, None))
        if packed is None:
            return functional.linear(input, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(input.to(self.dtype), packed, own, "none", [], "")

    def _convolution(
        self, func: Callable[..., Tensor], input: Tensor, weight: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        input = input.to(weight.dtype)
        if func is torch.conv1d and weight.shape[1] == 1 and self.weights:
            return _convolve_waveform(input, weight, *args, **kwargs)
        return func(input, weight, *args, **kwargs)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """torch's bfloat16 attention on CPU is no faster than its float32 one; two products and a softmax are."""
        plain = (
            not args and not kwargs.get("is_causal") and not kwargs.get("dropout_p") and not kwargs.get("enable_gqa")
        )
        if not plain or kwargs.get("attn_mask") is not None or self.device.type != "cpu" or query.dim() != 4:
            return functional.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        scale = kwargs.get("scale") or query.shape[-1] ** -0.5
        with torch.autocast("cpu", enabled=False):
            q, k, v = ((x.to(self.dtype)).flatten(0, 1) for x in (query * scale, key, value))
            heads = max(1, SCORES // (q.shape[1] * k.shape[1]))
            answers = [
                ((q[first : first + heads] @ k[first : first + heads].mT).softmax(-1)) @ v[first : first + heads]
                for first in range(0, len(q), heads)
            ]
        return torch.cat(answers).unflatten(0, query.shape[:2])


def _convolve_waveform(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """The first convolution of models on waveforms as one product, of the windows by the kernels: torch's own takes seven times as long."""
    numbers = [value if isinstance(value, int) else value[0] for value in (stride, padding, dilation)]
    if len(input) != 1 or input.dim() != 3 or numbers[1:] != [0, 1] or groups != 1:
        return torch.conv1d(input, weight, bias, stride, padding, dilation, groups)
    windows = input[0, 0].unfold(0, weight.shape[2], numbers[0]).contiguous()
    y = torch.ops.mkldnn._linear_pointwise(weight[:, 0].contiguous(), windows, None, "none", [], "")
    return (y if bias is None else y + bias[:, None])[None]
