"""Headwater: what does a speech representation know?

The expert folders (`upstream`, `downstream`, `pretrain`) lie at the top of a clone, where any program may have packages of the same names. So the root of
the clone joins this package's search path, and the one name of a module is `headwater.upstream.FAMILY.expert`, in a clone and in an installed wheel alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

_root = Path(__file__).resolve().parent.parent
if (_root / "hubconf.py").is_file() and (_root / "upstream").is_dir():
    __path__.append(str(_root))

if TYPE_CHECKING:
    from headwater.nn.upstream import Upstream


def load(name: str, ckpt: str | None = None, config: Any = None, device: str = "cpu") -> Upstream:
    """The upstream called `name`, in `eval()` mode on `device`.

    Parameters
    ----------
    name: a name or alias of the registry (`headwater ls upstreams`); or `ckpt:PATH`, a weight file or pretraining run that names its upstream itself.
    ckpt: a weight file, or its address, in the place of the weights that the name stands for.
    config: a mapping, or a YAML file, with settings of the model or its front-end; S3PRL's own forms are understood.

    Raises
    ------
    UsageError: an unknown name (the nearest ones are given) or setting.
    DataError: weights that cannot be had, or are not what they were.

    >>> import torch, headwater
    >>> headwater.load("fbank").extract([torch.zeros(16000)]).lengths.tolist()
    [98]
    """
    from headwater.loading import load_upstream

    return load_upstream(name, ckpt=ckpt, config=config, device=device)
