"""Directories of transformers on huggingface.co: found on this machine, or fetched; never any code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from headwater.download import offline
from headwater.errors import DataError, UsageError

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_FILES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}
SETTINGS = ("config.json", "preprocessor_config.json")
_PROCESSOR = "processor_config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


class Place(NamedTuple):
    """A directory, and the address that it came from."""

    folder: Path
    url: str | None = None


def locate(source: str) -> Place:
    """The directory (or file) that `source` names on this machine; else ORG/MODEL[@REVISION] in the cache of huggingface_hub, fetched where it is not there.

    Raises:
        UsageError: `source` is neither; or huggingface_hub is missing.
        DataError: it cannot be had.
    """
    path = Path(source).expanduser()
    if path.exists():
        return Place(path)
    named = _NAME.fullmatch(source)
    if path.suffix in _FILES:
        raise DataError(f"{source}: no such file")
    if named is None or ".." in source:
        raise UsageError(
            f"{source!r} is neither a directory on this machine nor ORG/MODEL or ORG/MODEL@REVISION, as on huggingface.co"
        )
    repo, revision = named["repo"], named["revision"]
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            f"{source}: to fetch from huggingface.co, `pip install huggingface_hub`; or fetch {', '.join(SETTINGS)} and model.safetensors from\n"
            f"  {_page(repo, revision)}\ninto a folder by hand: -u hf:FOLDER"
        ) from None
    held = _held(huggingface_hub, repo, revision)
    if held is not None and (offline() or _whole(held.folder)):
        return held
    if offline():
        raise DataError(_by_hand(repo, revision, "HEADWATER_OFFLINE is set, so nothing is downloaded"))
    try:
        about = huggingface_hub.HfApi().model_info(repo, revision=revision)
        names = {file.rfilename for file in about.siblings or []}
        wanted = _WEIGHTS if names & set(_WEIGHTS) else _PICKLES
        folder = huggingface_hub.snapshot_download(
            repo, revision=about.sha, allow_patterns=[*SETTINGS, _PROCESSOR, *wanted]
        )
    except Exception as error:  # its own errors, those of its client, of the network and of the disk
        if held is not None:
            return held
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DataError(_by_hand(repo, revision, reason[0])) from None
    return Place(Path(folder), _page(repo, Path(folder).name))


def _held(hub: object, repo: str, revision: str | None) -> Place | None:
    """What lies in the cache of huggingface_hub, where a model is in it."""
    try:
        found = hub.snapshot_download(repo, revision=revision, local_files_only=True)  # type: ignore[attr-defined]
    except Exception:  # one of several kinds for "not here"
        return None
    folder = Path(found)
    some = (folder / SETTINGS[0]).is_file() and any(
        (folder / name).is_file() for name in (*_WEIGHTS[:2], *_PICKLES[:2])
    )
    return Place(folder, _page(repo, folder.name)) if some else None


def _whole(folder: Path) -> bool:
    """Whether all is there that may be: others put weights into this cache without the settings of the waveforms, or only some shards."""
    shards = {
        part
        for index in folder.glob("*.index.json")
        for part in re.findall(r'"([\w.-]+\.(?:safetensors|bin))"', index.read_text(encoding="utf-8", errors="replace"))
    }
    settings = any((folder / name).is_file() for name in (SETTINGS[1], _PROCESSOR))
    return settings and all((folder / part).is_file() for part in shards)


def _page(repo: str, revision: str | None) -> str:
    return f"https://huggingface.co/{repo}/tree/{revision or 'main'}"


def _by_hand(repo: str, revision: str | None, why: str) -> str:
    pinned = f" --revision {revision}" if revision else ""
    folder = repo.split("/")[1]
    return (
        f"{repo}: {why}.\nWhere there is a network, fetch it with\n  hf download {repo}{pinned} --local-dir {folder}\n"
        f"(or {', '.join(SETTINGS)} and model.safetensors by hand, from {_page(repo, revision)}),\n"
        f"and give that folder: -u hf:{folder}"
    )
