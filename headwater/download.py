"""Weights from an address into the cache: resumed, locked against other processes, checked at every use, and never used before they are whole.

Beside FILE lies FILE.json (its sha256, and the address it came from), and while it is on its way FILE.part with FILE.part.json (what a server needs to go on).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.paths import cache_root
from headwater.progress import bar
from headwater.registry import Card, Weights
from headwater.results.files import write_json

CHUNK = 1 << 20  # bytes
SILENCE = 30.0  # seconds without a byte, after which a connection is given up
# Seconds before each further attempt; one that got further than all before starts the count again.
WAITS = (1.0, 2.0, 4.0)


class _Cut(Exception):
    """A transfer that ended before all was there."""


def offline() -> bool:
    """Whether `HEADWATER_OFFLINE` forbids downloads."""
    return os.environ.get("HEADWATER_OFFLINE", "") not in ("", "0")


def is_address(text: str) -> bool:
    """Whether a weight file is named by a http(s) address rather than by a path."""
    return text.startswith(("https://", "http://"))


def weights_at(url: str) -> Weights:
    """Weights that a user names by their address (`-k URL`). In the cache they have a folder of their own."""
    try:
        last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]
        name = re.sub(r"[^A-Za-z0-9_.+=-]", "_", last).lstrip(".") or "weights"
        return Weights(url=url, file=f"by_address/{hashlib.sha256(_direct(url).encode()).hexdigest()[:16]}/{name}")
    except ValueError:
        raise UsageError(f"{url!r} is no address of a file; write it as https://HOST/PATH") from None


def path_of(card: Card) -> Path | None:
    """Where the weights of a card lie, or will once they are fetched. None for a card without weights."""
    if card.weights is None:
        return None
    return card.folder / card.weights.bundled if card.weights.bundled else _cached(card.weights)


def standing(card: Card) -> str | None:
    """How the weights of a card stand: `bundled`, `in the cache`, `to be downloaded`, `missing`, `yours (-k FILE)`. None where there are none."""
    path = path_of(card)
    if card.weights is None or path is None:
        return "yours (-k FILE)" if card.needs_ckpt else None
    if card.weights.bundled:
        return "bundled" if path.is_file() else "missing"
    return "in the cache" if path.is_file() else "to be downloaded"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def fetch(weights: Weights, *, refresh: bool = False) -> Path:
    """The file in the cache, downloaded where it is not there yet, or always with `refresh`. It is whole, and the one that came first.

    Raises DataError where it cannot be had (no network, `HEADWATER_OFFLINE`, a dead link) or is not what was promised, HeadwaterError for a full disk.
    """
    path = _cached(weights)
    with _alone(path, writes=refresh or not path.is_file()):
        if refresh or not path.is_file():
            if offline():
                raise DataError(_by_hand(weights, path, "HEADWATER_OFFLINE is set, so nothing is downloaded"))
            _install(weights, path, _download(weights, path))
        else:
            _check(weights, path)
    return path


def _cached(weights: Weights) -> Path:
    if weights.file is None:
        raise ValueError(f"{weights} are bundled: they have no place in the cache")
    return cache_root() / "weights" / weights.file


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@contextmanager
def _alone(path: Path, *, writes: bool) -> Iterator[None]:
    """One process at a time. What lies in a cache that may only be read is used without a lock."""
    lock = FileLock(_beside(path, ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if writes:
            raise HeadwaterError(
                f"{path.parent}: cannot be written to ({error.strerror}); set HEADWATER_CACHE to another folder"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _check(weights: Weights, path: Path) -> None:
    """`DataError` where the file is not the one that the card names, or that came at first. One put there by hand is taken at its word, once."""
    found, record = file_sha256(path), _read(_beside(path, ".json"))
    again = f"Download it again with -r (--upstream_refresh) or `headwater fetch --refresh`, or remove {path}."
    if weights.sha256 is not None:
        if found != weights.sha256:
            raise DataError(f"{path} has the sha256\n  {found}, its card says\n  {weights.sha256}.\n{again}")
    elif not record:
        with suppress(HeadwaterError):  # in a cache that may only be read, nothing is remembered
            write_json(_beside(path, ".json"), {"sha256": found, "url": None})
    elif found != record.get("sha256"):
        raise DataError(
            f"{path} has the sha256\n  {found}, when it first came it had\n  {record.get('sha256')}.\n{again}"
        )
    elif record.get("url") not in (None, weights.url):
        raise DataError(f"{path} came from\n  {record['url']}, now wanted from\n  {weights.url}.\n{again}")


def _install(weights: Weights, path: Path, digest: str) -> None:
    """Give a whole download its name, if it is what the card promises. Killed in between, a file is left that nothing is remembered of."""
    part, record = _beside(path, ".part"), _beside(path, ".json")
    if weights.sha256 not in (None, digest):
        part.unlink()
        raise DataError(
            f"{weights.url}: what came has the sha256\n  {digest}, its card says\n  {weights.sha256}.\n"
            "It was thrown away: the address holds another file now, or somebody changed it on the way."
        )
    record.unlink(missing_ok=True)
    os.replace(part, path)
    write_json(record, {"sha256": digest, "url": weights.url})
    _beside(part, ".json").unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """What lies beside a file; empty where nothing does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); remove it and the file beside it") from None
    return content if isinstance(content, dict) else {}


def _by_hand(weights: Weights, path: Path, why: str) -> str:
    known = f"\n({weights.note})" if weights.note else ""
    return f"{why}.\nThe weights are at\n  {weights.url}\nand belong here:\n  {path}{known}"


def _download(weights: Weights, path: Path) -> str:
    """Fill FILE.part, over several attempts where need be. Returns the sha256 of all of it."""
    part, tries, furthest = _beside(path, ".part"), 0, -1
    while True:
        try:
            return _transfer(str(weights.url), part, path.name)
        except urllib.error.HTTPError as error:
            hopeless = error.code < 500 and error.code not in (408, 429)
            reason = f"{weights.url}: the server answers {error.code} {error.reason}"
            error.close()
        except (_Cut, OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            hopeless = isinstance(cause, socket.gaierror)
            reason = f"{weights.url}: {cause or type(error).__name__}"
        reached = part.stat().st_size if part.is_file() else 0
        tries, furthest = (0 if reached > furthest else tries + 1), max(reached, furthest)
        if hopeless or tries >= len(WAITS):
            kept = f" ({reached} bytes are kept; the same command goes on from there)" if reached else ""
            raise DataError(_by_hand(weights, path, reason + kept)) from None
        time.sleep(WAITS[tries])


def _transfer(url: str, part: Path, what: str) -> str:
    """One attempt: go on behind what `part` holds if the server vouches that it is of the same file, else from the start."""
    state = _beside(part, ".json")
    held = _read(state)
    have = part.stat().st_size if part.is_file() and held.get("url") == url and held.get("version") else 0
    headers = {"User-Agent": "headwater", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": held["version"]}
    try:
        answer = _OPENER.open(urllib.request.Request(_direct(url), headers=headers), timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # it holds nothing behind `have`
            part.unlink()
            return _transfer(url, part, what)
        raise
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise DataError(f"{url} gives a web page, not a weight file; a link to the file itself is needed")
        if answer.status == 206:
            begins = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if not begins or _version(answer) not in (None, held.get("version")):
                part.unlink(missing_ok=True)
                raise _Cut("the server goes on with another file than it began")
        else:
            have = 0
            part.unlink(missing_ok=True)  # before `state` vouches for another version
            write_json(state, {"url": url, "version": _version(answer)})
        total = have + answer.length if answer.length is not None else None
        digest = _receive(answer, part, have, total, what)
    size = part.stat().st_size
    if total is not None and size != total:
        raise _Cut(f"the connection was cut after {size} of {total} bytes")
    return digest


def _receive(answer: Any, part: Path, have: int, total: int | None, what: str) -> str:
    """Append what comes to the first `have` bytes of `part`. Returns the sha256 of both together."""
    digest = hashlib.sha256()
    try:
        with (
            open(part, "r+b" if have else "wb") as file,
            bar(total=total, what=f"download {what}", unit="B", initial=have) as counter,
        ):
            while file.tell() < have:
                digest.update(file.read(min(CHUNK, have - file.tell())))
            while block := _more(answer):
                file.write(block)
                digest.update(block)
                counter.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise HeadwaterError(
            f"{part}: cannot be written ({error.strerror}); free some space or set HEADWATER_CACHE to another folder"
        ) from None
    return digest.hexdigest()


def _more(answer: Any) -> bytes:
    """The next bytes. An error of the network is not one of the disk."""
    try:
        return bytes(answer.read(CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(str(error) or type(error).__name__) from None


def _version(answer: Any) -> str | None:
    """What tells one version of a file at an address from another: a strong ETag or the date of its last change."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def _direct(url: str) -> str:
    """Dropbox gives the file itself, not a page about it, to `dl=1`."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname not in ("dropbox.com", "www.dropbox.com"):
        return url
    query = [(key, value) for key, value in urllib.parse.parse_qsl(parts.query) if key != "dl"]
    return urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode([*query, ("dl", "1")])))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything less."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not is_address(newurl) or (req.full_url.startswith("https:") and not newurl.startswith("https:")):
            raise DataError(f"{req.full_url} leads to {newurl}, which is not as safe; it is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)
