"""torch.hub's view of the registry: every upstream by name and alias, as `torch.hub.load(REPO, "fbank")`."""

dependencies = ["torch", "numpy", "pydantic", "soundfile", "yaml"]


def _entries():  # type: ignore[no-untyped-def]
    import functools

    import headwater
    from headwater.registry import upstreams

    def entry(name, ckpt=None, config=None, device="cpu", **unknown):  # type: ignore[no-untyped-def]
        if unknown:
            raise headwater.errors.UsageError(
                f"torch.hub entry {name!r} takes ckpt, config and device; got {', '.join(unknown)}"
            )
        return headwater.load(name, ckpt=ckpt, config=config, device=device)

    for name in upstreams.names():
        function = functools.partial(entry, name)
        function.__doc__ = upstreams[name].summary
        yield name, function


globals().update(_entries())
