"""Weights come once, whole, and as what they were; a server on the loopback interface misbehaves in every way that servers do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pydantic import ValidationError

from headwater import download
from headwater.download import fetch, weights_at
from headwater.errors import DataError, HeadwaterError, UsageError
from headwater.registry import Weights

CONTENT = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What a server answers, and what it was asked."""

    address: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which each of the next answers breaks off
    statuses: list[int] = field(default_factory=list)  # of the next answers
    content_type: str = "application/octet-stream"
    location: str | None = None
    delay: float = 0.0
    asked: list[str] = field(default_factory=list)  # the Range of every request, "" without one


@pytest.fixture()
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            site.asked.append(wanted)
            time.sleep(site.delay)
            status = site.statuses.pop(0) if site.statuses else 200
            begin = 0
            if status == 200 and site.ranges and wanted and self.headers.get("If-Range") == site.etag:
                status, begin = 206, int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(site.content) and begin:
                status, begin = 416, 0
            self.send_response(status)
            body = site.content[begin:] if status in (200, 206) else b""
            if site.location is not None:
                self.send_header("Location", site.location)
            if status == 206:
                self.send_header("Content-Range", f"bytes {begin}-{len(site.content) - 1}/{len(site.content)}")
            if site.etag is not None:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Type", site.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts and status in (200, 206) else body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}/model.ckpt"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the loopback interface within reach, and no time lost between attempts."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    monkeypatch.delenv("HEADWATER_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    return tmp_path / "weights"


def weights(site: Site, **facts: Any) -> Weights:
    return Weights(url=site.address, file="tera/states.ckpt", **facts)


def test_a_file_comes_once_and_leaves_nothing_half_done_behind(site: Site, own_cache: Path) -> None:
    path = fetch(weights(site, sha256=SHA256))
    assert path == own_cache / "tera" / "states.ckpt"
    assert path.read_bytes() == CONTENT
    assert fetch(weights(site)) == path
    assert site.asked == [""]
    assert {file.name for file in path.parent.iterdir()} <= {"states.ckpt", "states.ckpt.json", "states.ckpt.lock"}
    assert json.loads((path.parent / "states.ckpt.json").read_text()) == {"sha256": SHA256, "url": site.address}


@pytest.mark.parametrize(
    ("ranges", "etag", "asked"),
    [
        (True, '"one"', ["", "bytes=1000-", "bytes=3000-"]),
        (False, '"one"', ["", "bytes=1000-", "bytes=2000-"]),
        (True, 'W/"weak"', ["", "", ""]),
        (True, None, ["", "", ""]),
    ],
    ids=["goes on", "ignores Range", "weak ETag", "no ETag"],
)
def test_a_cut_connection_goes_on_where_the_server_vouches_for_it(
    site: Site, ranges: bool, etag: str | None, asked: list[str]
) -> None:
    site.ranges, site.etag, site.cuts = ranges, etag, [1000, 2000]
    assert fetch(weights(site, sha256=SHA256)).read_bytes() == CONTENT
    assert site.asked == asked


def test_what_came_is_kept_for_the_next_command_and_never_used(site: Site, own_cache: Path) -> None:
    site.cuts, site.ranges = [1000] * 4, False
    with pytest.raises(DataError, match=r"cut after 1000 of 307200 bytes \(1000 bytes are kept"):
        fetch(weights(site))
    assert not (own_cache / "tera" / "states.ckpt").exists()
    site.ranges = True
    assert fetch(weights(site, sha256=SHA256)).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=1000-"


def test_a_download_that_gets_further_each_time_is_not_given_up(site: Site) -> None:
    site.cuts = [20000] * 12
    assert fetch(weights(site, sha256=SHA256)).read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"two"', '"one"'], ids=["says so", "keeps its ETag"])
def test_a_file_that_changed_between_two_attempts_is_not_sewn_together(site: Site, own_cache: Path, etag: str) -> None:
    """With another ETag it starts anew. Where the server says that nothing changed, only a known sha256 can tell."""
    site.cuts, site.ranges = [1000] * 4, False
    with pytest.raises(DataError, match="cut"):
        fetch(weights(site))
    other = bytes(reversed(CONTENT))
    site.content, site.etag, site.ranges = other, etag, True
    promised = weights(site, sha256=hashlib.sha256(other).hexdigest())
    if etag == '"two"':
        assert fetch(promised).read_bytes() == other
    else:
        with pytest.raises(DataError, match="thrown away"):
            fetch(promised)
        assert fetch(promised).read_bytes() == other  # what was wrong is not gone on with


def test_a_part_that_was_whole_already_is_no_dead_end(site: Site, own_cache: Path) -> None:
    """Killed between the last byte and the new name: the server has nothing more to send."""
    folder = own_cache / "tera"
    folder.mkdir(parents=True)
    (folder / "states.ckpt.part").write_bytes(CONTENT)
    (folder / "states.ckpt.part.json").write_text(json.dumps({"url": site.address, "version": '"one"'}))
    assert fetch(weights(site, sha256=SHA256)).read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(CONTENT)}-", ""]


def test_another_sha256_than_promised_is_refused_and_both_are_named(site: Site, own_cache: Path) -> None:
    with pytest.raises(DataError, match=rf"(?s){SHA256}.*{'ab' * 32}.*thrown away"):
        fetch(weights(site, sha256="ab" * 32))
    assert not [file for file in (own_cache / "tera").iterdir() if file.name.endswith(("ckpt", "part"))]


def test_a_file_that_changed_since_it_came_is_refused_until_it_is_fetched_again(site: Site) -> None:
    path = fetch(weights(site))
    path.write_bytes(CONTENT + b"x")
    with pytest.raises(DataError, match=rf"(?s)when it first came it had\s+{SHA256}.*--refresh"):
        fetch(weights(site))
    assert fetch(weights(site), refresh=True).read_bytes() == CONTENT
    assert fetch(weights(site)).read_bytes() == CONTENT


def test_refresh_takes_what_the_address_holds_now(site: Site) -> None:
    fetch(weights(site))
    site.content, site.etag = b"new", '"two"'
    assert fetch(weights(site)).read_bytes() == CONTENT
    assert fetch(weights(site), refresh=True).read_bytes() == b"new"
    assert fetch(weights(site)).read_bytes() == b"new"


def test_a_refresh_that_fails_leaves_the_old_file_as_it_was(site: Site) -> None:
    fetch(weights(site))
    site.statuses = [404]
    with pytest.raises(DataError, match="404"):
        fetch(weights(site), refresh=True)
    assert fetch(weights(site)).read_bytes() == CONTENT


def test_two_cards_cannot_pass_off_one_file_as_the_weights_of_both(site: Site) -> None:
    fetch(weights(site))
    with pytest.raises(DataError, match=r"(?s)came from.*now wanted from\s+http://127\.0\.0\.1/other"):
        fetch(Weights(url="http://127.0.0.1/other", file="tera/states.ckpt"))


def test_a_file_put_there_by_hand_is_taken_and_then_held_to_its_word(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_OFFLINE", "1")
    wanted = Weights(url="https://example.org/states.ckpt", file="tera/states.ckpt")
    with pytest.raises(
        DataError, match=r"(?s)HEADWATER_OFFLINE.*https://example\.org/states\.ckpt.*tera/states\.ckpt"
    ) as said:
        fetch(wanted)
    path = Path(str(said.value).splitlines()[-1].strip())
    path.write_bytes(CONTENT)
    assert fetch(wanted) == path
    path.write_bytes(b"other")
    with pytest.raises(DataError, match=SHA256):
        fetch(wanted)


def test_processes_that_want_one_file_fetch_it_once(site: Site, own_cache: Path) -> None:
    site.delay = 0.5
    program = f"from headwater.download import *\nprint(fetch(Weights(url={site.address!r}, file='a/b.ckpt')))"
    started = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert {process.communicate(timeout=60)[0].decode().strip() for process in started} == {str(own_cache / "a/b.ckpt")}
    assert site.asked == [""]


def test_a_dead_link_is_not_asked_twice_and_says_where_to_put_the_file(site: Site, own_cache: Path) -> None:
    site.statuses = [404]
    with pytest.raises(DataError, match=rf"(?s)404.*{site.address}.*{own_cache}/tera/states\.ckpt\s+\(seen dead\)"):
        fetch(weights(site, note="seen dead"))
    assert site.asked == [""]


def test_a_server_that_is_busy_is_asked_again(site: Site) -> None:
    site.statuses = [503, 429]
    assert fetch(weights(site)).read_bytes() == CONTENT


def test_a_web_page_is_no_weight_file(site: Site, own_cache: Path) -> None:
    site.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="web page"):
        fetch(weights(site))
    assert not (own_cache / "tera" / "states.ckpt").exists()


def test_nobody_at_the_address_is_said(site: Site) -> None:
    with pytest.raises(DataError, match=r"(?s)refused.*belong here"):
        fetch(Weights(url="http://127.0.0.1:9/states.ckpt", file="states.ckpt"))


def test_a_redirect_is_followed_but_not_off_http(site: Site) -> None:
    site.statuses, site.location = [302], site.address
    assert fetch(weights(site)).read_bytes() == CONTENT
    site.statuses, site.location = [302], "ftp://127.0.0.1/model.ckpt"
    with pytest.raises(DataError, match="not followed"):
        fetch(weights(site), refresh=True)


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    request = download.urllib.request.Request("https://example.org/a")
    with pytest.raises(DataError, match="not as safe"):
        download._Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/a")


def test_a_part_is_forgotten_before_another_version_is_noted(
    site: Site, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, the next attempt would go on with the one file behind the beginning of the other."""
    site.cuts, site.ranges = [1000] * 4, False
    with pytest.raises(DataError, match="cut"):
        fetch(weights(site))
    site.content, site.etag, site.ranges = bytes(reversed(CONTENT)), '"two"', True

    def killed(*arguments: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "_receive", killed)
        fetch(weights(site))
    assert fetch(weights(site)).read_bytes() == site.content


def test_a_cache_that_may_only_be_read_is_read(site: Site, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(weights(site))

    def forbidden(self: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.FileLock, "acquire", forbidden)
    assert fetch(weights(site)) == path
    with pytest.raises(HeadwaterError, match=r"cannot be written to \(Permission denied\); set HEADWATER_CACHE"):
        fetch(weights(site), refresh=True)


def test_a_full_disk_is_no_network_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def tell(self) -> int:
            return 0

        def write(self, block: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "open", lambda path, mode: Full(open(path, mode)), raising=False)  # noqa: SIM115
    with pytest.raises(HeadwaterError, match=r"states\.ckpt\.part: cannot be written \(No space") as said:
        fetch(weights(site))
    assert said.value.exit_code == 1
    assert site.asked == [""]


@pytest.mark.parametrize(
    "facts",
    [
        {"url": "https://a.org/x", "file": "/etc/passwd"},
        {"url": "https://a.org/x", "file": "../../.bashrc"},
        {"url": "https://a.org/x", "file": "a/../../b"},
        {"url": "https://a.org/x", "file": ".hidden"},
        {"url": "https://a.org/x", "file": "a\\b"},
        {"url": "https://a.org/x", "file": "a//b"},
        {"url": "https://a.org/x", "file": ""},
        {"url": "https://a.org/x", "file": "a\nb"},
        {"url": "file:///etc/passwd", "file": "x"},
        {"url": "ftp://a.org/x", "file": "x"},
        {"url": "https://a.org/x"},
        {"file": "x"},
        {"bundled": "../other/weights"},
        {"bundled": "x", "url": "https://a.org/x", "file": "x"},
        {"url": "https://a.org/x", "file": "x", "sha256": "short"},
    ],
    ids=str,
)
def test_a_card_cannot_point_outside_its_places(facts: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Weights.model_validate(facts)


def test_dropbox_links_ask_for_the_file_and_are_one_file_in_either_form() -> None:
    shared = "https://www.dropbox.com/s/l9ryl82k64m1lsk/states-200000.ckpt?dl="
    assert download._direct(f"{shared}0") == download._direct(f"{shared}1") == f"{shared}1"
    assert download._direct("https://example.org/a?dl=0") == "https://example.org/a?dl=0"
    assert weights_at(f"{shared}0").file == weights_at(f"{shared}1").file
    assert str(weights_at(f"{shared}1").file).endswith("/states-200000.ckpt")


@pytest.mark.parametrize("url", ["https://a.org/%2e%2e/..", "https://a.org/", "https://a.org/a%20b%0a?x=/../y"])
def test_any_address_gets_a_safe_name(url: str) -> None:
    assert re.fullmatch(r"by_address/[0-9a-f]{16}/[\w.]+", str(weights_at(url).file))


@pytest.mark.parametrize("url", ["https://", "https:///x", "https://a.org/a b", "https://a.org/ä", "https://[a/b"])
def test_what_is_no_address_is_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError, match=re.escape(url)):
        weights_at(url)
