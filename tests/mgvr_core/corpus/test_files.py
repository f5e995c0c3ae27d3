"""The files of a corpus, here and elsewhere: what they look like, their bytes, and the name of what is wrong."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mgvr_core.corpus import files
from mgvr_core.corpus.files import Look, Trouble, hash_video, local_copy, look, open_video, persist, require_schemes
from mgvr_core.errors import MgvrError
from mgvr_core.video.decoders import DecodeError

BODY = bytes(range(256)) * 10_000  # more than a chunk


@dataclass
class Web:
    """A web server on loopback that says what a test tells it to."""

    url: str
    pages: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def serve(self, name: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        """The address of a page; headers as `Last_Modified="…"`."""
        self.pages[f"/{name}"] = (status, body, {key.replace("_", "-"): value for key, value in headers.items()})
        return f"{self.url}/{name}"


@pytest.fixture
def web() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self, body: bool = False) -> None:
            page = self.path.partition("?")[0]
            site.asked[page] += 1
            status, content, headers = site.pages.get(page, (404, b"", {}))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_HEAD(body=True)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for, none of which is made."""
    made: list[float] = []
    monkeypatch.setattr(files.time, "sleep", made.append)
    return made


def put(uri: str, body: bytes) -> str:
    with fsspec.open(uri, "wb") as file:
        file.write(body)
    return uri


def nowhere() -> str:
    """An address on loopback that nobody listens at."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def one(uri: str) -> Look | Trouble:
    return look([uri])[uri]


def test_a_file_here_is_its_size_and_time_of_change(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"12345")
    first = one(str(file))
    assert first == Look(5, f"mtime:{file.stat().st_mtime_ns}")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    second = one(str(file))
    assert isinstance(second, Look)
    assert (second.size, second.version) != first
    assert second.size == 5


def test_looking_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(tmp_path / f"{n}.mp4") for n in range(3)]
    for name in names:
        Path(name).write_bytes(b"x")

    def refuse(*args: object, **options: object) -> None:
        pytest.fail("a file was opened")

    for module, name in (("builtins", "open"), ("io", "open"), ("os", "open")):
        monkeypatch.setattr(f"{module}.{name}", refuse)
    assert all(isinstance(seen, Look) for seen in look(names).values())


def test_many_files_are_all_looked_at_once(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{n}.mp4") for n in range(700)]
    for number, name in enumerate(names):
        if number % 3:
            Path(name).write_bytes(b"x" * number)
    found = look([*names, *names[:50]])
    assert list(found) == names
    for number, name in enumerate(names):
        assert found[name][0] == (number if number % 3 else "missing")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "file").touch()
    kinds = {
        "pipe.mp4": "not_a_video",
        "folder.mp4": "not_a_video",
        "link.mp4": "missing",
        "loop.mp4": "missing",
        "gone.mp4": "missing",
        "file/a.mp4": "missing",
        "x" * 300: "missing",
        "nul\0.mp4": "missing",
    }
    for name, kind in kinds.items():
        uri = f"{tmp_path}/{name}"
        for seen in (one(uri), hash_video(uri)):
            assert isinstance(seen, Trouble)
            assert seen.kind == kind
            assert seen.message.startswith(uri)


def test_a_disk_that_fails_is_no_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: str) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "stat", stale)
        seen = one("/mount/a.mp4")
    assert seen == Trouble("unreadable", f"/mount/a.mp4: {os.strerror(errno.ESTALE)}")


def test_the_hash_is_of_the_bytes_wherever_they_lie(tmp_path: Path, web: Web, s3: str) -> None:
    (tmp_path / "a.mp4").write_bytes(BODY)
    places = [str(tmp_path / "a.mp4"), web.serve("a.mp4", BODY), put(f"{s3}/deep/a b#?[1].mp4", BODY)]
    assert {hash_video(uri) for uri in places} == {sha256(BODY).hexdigest()}


def test_an_empty_file_is_empty_wherever_it_lies(tmp_path: Path, web: Web, s3: str) -> None:
    (tmp_path / "a.mp4").touch()
    for uri in (str(tmp_path / "a.mp4"), web.serve("a.mp4"), put(f"{s3}/a.mp4", b"")):
        assert hash_video(uri) == Trouble("empty", f"{uri}: an empty file")


def test_a_copy_is_there_for_as_long_as_it_is_needed(tmp_path: Path, web: Web, s3: str) -> None:
    (tmp_path / "a.mp4").write_bytes(BODY)
    with local_copy(str(tmp_path / "a.mp4")) as path:
        assert path == str(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").exists()
    for uri in (f"{web.serve('a.h264', BODY)}?sig=/x.y", put(f"{s3}/a.h264", BODY)):
        with local_copy(uri) as path:
            assert Path(path).read_bytes() == BODY
            assert Path(path).suffix == ".h264"  # some formats are told by nothing else
        assert not Path(path).exists()


def test_an_object_looks_the_same_alone_and_in_a_listing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a folder that grows past the point where listing pays would look changed as a whole."""
    names = [put(f"{s3}/v/{n}.mp4", b"x" * n) for n in range(1, files._FOLDER_PAYS + 1)]
    alone = {name: one(name) for name in names}
    assert all(isinstance(seen, Look) and seen.version.startswith("etag:") for seen in alone.values())
    monkeypatch.setattr(files, "_look_at_object", lambda uri: pytest.fail(f"{uri} was asked for alone"))
    assert look(names) == alone


def test_an_object_that_is_written_again_looks_changed(s3: str) -> None:
    uri = put(f"{s3}/a.mp4", b"old")
    before = one(uri)
    put(uri, b"old")
    assert one(uri) == before  # the same bytes: the same etag
    put(uri, b"new")
    after = one(uri)
    assert isinstance(after, Look)
    assert after.size == 3
    assert after != before


def test_objects_that_are_not_there_are_missing(s3: str) -> None:
    put(f"{s3}/v/a.mp4", b"x")
    lost = [f"{s3}/v/{n}.mp4" for n in range(files._FOLDER_PAYS)]  # of a folder that is listed
    for uri in (*lost, f"{s3}/none.mp4", "s3://no-such-bucket-here/a.mp4"):
        assert one(uri) == Trouble("missing", f"{uri}: there is no such file")
        assert hash_video(uri) == Trouble("missing", f"{uri}: there is no such file")
    assert one(f"{s3}/v") == Trouble("not_a_video", f"{s3}/v: a folder")


def test_a_folder_that_may_not_be_listed_does_not_hide_its_files(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [put(f"{s3}/v/{n}.mp4", b"x") for n in range(files._FOLDER_PAYS)]
    whole = files.filesystem

    class NoListing:
        def ls(self, *args: object, **options: object) -> None:
            raise PermissionError("Access Denied")

        def info(self, uri: str) -> Any:
            return whole("s3").info(uri)

    monkeypatch.setattr(files, "filesystem", lambda scheme: NoListing())
    assert all(isinstance(seen, Look) for seen in look(names).values())
    # Nor is a folder of a million listed for one file of it.
    monkeypatch.setattr(NoListing, "ls", lambda *args, **options: pytest.fail("the folder was listed"))
    assert isinstance(one(names[0]), Look)


def test_a_web_file_is_its_etag_or_else_its_time_of_change(web: Web) -> None:
    uri = web.serve("a.mp4", b"12345", ETag='"one"', Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    assert one(uri) == Look(5, 'etag:"one"')
    web.serve("a.mp4", b"12345", ETag='"two"')
    assert one(uri) == Look(5, 'etag:"two"')
    web.serve("a.mp4", b"12345", Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    assert one(uri) == Look(5, "modified:Mon, 01 Jan 2024 00:00:00 GMT")
    web.serve("a.mp4", b"12345")
    assert one(uri) == Look(5, "modified:unknown")


def test_looking_at_a_web_file_does_not_fetch_it(web: Web) -> None:
    uris = [web.serve(f"{n}.mp4", BODY, ETag="x") for n in range(20)]
    assert all(isinstance(seen, Look) for seen in look([*uris, *uris]).values())
    assert web.asked == {f"/{n}.mp4": 1 for n in range(20)}


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "missing"), (410, "missing"), (403, "network"), (429, "network"), (503, "network")]
)
def test_what_a_web_server_refuses_is_missing_or_comes_later(web: Web, status: int, kind: str) -> None:
    uri = web.serve("a.mp4", b"sorry", status=status)
    for seen in (one(uri), hash_video(uri)):
        assert isinstance(seen, Trouble)
        assert seen.kind == kind
        assert seen.message.startswith(f"{uri}: ")
        assert ("there is no such file" if kind == "missing" else str(status)) in seen.message


def test_a_server_that_does_not_answer_is_network_trouble() -> None:
    """The client calls it a missing file, which would never be tried again."""
    uri = f"{nowhere()}/a.mp4"
    for seen in (one(uri), hash_video(uri)):
        assert isinstance(seen, Trouble)
        assert seen.kind == "network"
        assert uri in seen.message
        assert "\n" not in seen.message


def test_a_connection_that_breaks_off_is_network_trouble(web: Web) -> None:
    uri = web.serve("a.mp4", BODY, Content_Length=str(len(BODY) + 1))
    seen = hash_video(uri)
    assert isinstance(seen, Trouble)
    assert seen.kind == "network"


def test_what_a_client_raises_is_trouble_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no\ncredentials")

    monkeypatch.setattr(files, "filesystem", lambda scheme: Broken())
    for seen in (one("s3://bucket/a.mp4"), hash_video("s3://bucket/a.mp4")):
        assert seen == Trouble("network", "s3://bucket/a.mp4: RuntimeError: no credentials")


def test_an_object_that_may_not_be_read_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        def __getattr__(self, name: str) -> Any:
            raise PermissionError("Access Denied")

    monkeypatch.setattr(files, "filesystem", lambda scheme: Forbidden())
    for seen in (one("s3://bucket/a.mp4"), hash_video("s3://bucket/a.mp4")):
        assert seen == Trouble("unreadable", "s3://bucket/a.mp4: Access Denied")


def test_a_decoders_fault_keeps_its_kind_and_is_one_line() -> None:
    assert files.trouble("a.mp4", DecodeError("corrupt", "a.mp4: bad\nheader")) == Trouble(
        "corrupt", "a.mp4: bad header"
    )


def test_opening_leaves_errors_of_its_reader_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError), open_video(str(tmp_path / "a.mp4")):
        raise ZeroDivisionError


def test_trouble_that_may_pass_is_met_again_after_doubled_pauses(sleeps: list[float], web: Web) -> None:
    uri = web.serve("a.mp4", status=503)
    answers = iter([503, 503, 200])

    def attempt() -> str | Trouble:
        status = next(answers)
        web.serve("a.mp4", b"here" if status == 200 else b"", status=status)
        return hash_video(uri)

    assert persist(attempt, attempts=5, backoff_s=0.5) == (sha256(b"here").hexdigest(), 3)
    assert sleeps == [0.5, 1.0]


def test_patience_ends(sleeps: list[float]) -> None:
    uri = f"{nowhere()}/a.mp4"
    outcome, tried = persist(lambda: hash_video(uri), attempts=4, backoff_s=1.0)
    assert isinstance(outcome, Trouble)
    assert (outcome.kind, tried) == ("network", 4)
    assert sleeps == [1.0, 2.0, 4.0]


def test_what_would_fail_again_is_not_tried_again(sleeps: list[float], web: Web) -> None:
    for uri, kind in ((f"{web.url}/none.mp4", "missing"), (web.serve("empty.mp4"), "empty")):
        outcome, tried = persist(lambda uri=uri: hash_video(uri), attempts=4, backoff_s=1.0)
        assert isinstance(outcome, Trouble)
        assert (outcome.kind, tried) == (kind, 1)
    look([f"{web.url}/none.mp4"], attempts=4, backoff_s=1.0)
    assert sleeps == []


def test_files_that_could_not_be_looked_at_are_looked_at_again_together(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaky = [web.serve(f"{n}.mp4", status=503) for n in range(3)]
    uris = [*shaky, web.serve("fine.mp4", b"x"), f"{web.url}/none.mp4"]
    sleeps: list[float] = []

    def recover(pause: float) -> None:
        sleeps.append(pause)
        web.serve(f"{len(sleeps) - 1}.mp4", b"x")

    monkeypatch.setattr(files.time, "sleep", recover)
    found = look(uris, attempts=3, backoff_s=2.0)
    assert sleeps == [2.0, 4.0]
    assert [found[uri][0] for uri in uris] == [1, 1, "network", 1, "missing"]
    assert list(found) == uris
    assert web.asked["/fine.mp4"] == 1


def test_an_address_that_no_client_reaches_is_refused_by_its_name() -> None:
    with pytest.raises(
        MgvrError, match=r"corpus\.csv: ftp://host/a\.mp4 can't be read: .*s3://, gs://, http://, https://"
    ):
        require_schemes(["/a.mp4", "s3://bucket/a.mp4", "ftp://host/a.mp4"], "corpus.csv")


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str, **options: object) -> None:
        raise ImportError(f"no client for {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MgvrError, match=r"s3:// can't be reached: .*install mgvr\[s3\]"):
        require_schemes(["s3://bucket/a.mp4"], "corpus.csv")
    require_schemes(["/a.mp4"], "corpus.csv")
