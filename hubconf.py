"""torch.hub's view of the registry: every upstream by name and alias, as `torch.hub.load(REPO, "fbank")`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whatever is callable here would be an entry of the hub
    from collections.abc import Callable, Iterator
    from typing import Any

dependencies = ["torch", "numpy", "pydantic", "soundfile", "yaml", "safetensors", "filelock", "tqdm"]


def _entries() -> Iterator[tuple[str, Callable[..., Any]]]:
    import functools

    from headwater.errors import UsageError
    from headwater.registry import upstreams

    def entry(
        name: str,
        ckpt: str | None = None,
        config: Any = None,
        device: str = "cpu",
        refresh: bool = False,
        **unknown: Any,
    ) -> Any:
        from headwater.loading import load_upstream

        # S3PRL's callers say of what form a file is, which is found here.
        if strange := [key for key in unknown if key not in ("fairseq", "legacy")]:
            raise UsageError(
                f"torch.hub entry {name!r} takes ckpt, config, device and refresh; got {', '.join(strange)}"
            )
        return load_upstream(name, ckpt=ckpt, config=config, device=device, refresh=refresh)

    for name in upstreams.names():
        function = functools.partial(entry, name)
        function.__doc__ = upstreams[name].summary
        yield name, function


globals().update(_entries())
