"""A place for files, local or in an object store: files appear whole, and a name can be taken once."""

from __future__ import annotations

import pickle
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from mgvr_core import storage as storage_module
from mgvr_core.errors import MgvrError
from mgvr_core.storage import LocalStorage, ObjectStorage, Storage, StorePath, open_storage

TABLE = pa.table({"id": ["a", "b"], "row": [1, 2]})


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "set")
    return open_storage(f"{request.getfixturevalue('s3')}/some/set")


def put_table(place: Storage, name: str) -> bytes:
    scratch = place.scratch()
    pq.write_table(TABLE, scratch)
    data = scratch.read_bytes()
    place.place(scratch, name)
    assert not scratch.exists()
    return data


def test_a_file_is_read_as_it_was_put_and_can_be_replaced(place: Storage) -> None:
    place.put("pending/a.json", b"one")
    assert place.read("pending/a.json") == b"one"
    place.put("pending/a.json", b"another")
    assert place.read("pending/a.json") == b"another"


def test_a_name_that_is_taken_can_not_be_created(place: Storage) -> None:
    place.create("snapshots/1.json", b"first")
    with pytest.raises(FileExistsError):
        place.create("snapshots/1.json", b"second")
    assert place.read("snapshots/1.json") == b"first"
    assert [entry.name for entry in place.entries("snapshots")] == ["snapshots/1.json"]


def test_of_many_who_create_a_file_at_once_exactly_one_succeeds(place: Storage) -> None:
    def create(number: int, who: int, start: threading.Barrier) -> bool:
        start.wait()
        try:
            place.create(f"snapshots/{number}.json", str(who).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        for number in range(10):
            start = threading.Barrier(6)
            won = list(pool.map(lambda who, n=number, start=start: create(n, who, start), range(6)))
            assert sum(won) == 1
            assert place.read(f"snapshots/{number}.json") == str(won.index(True)).encode()


def test_a_listing_has_the_finished_files_of_one_folder(place: Storage) -> None:
    before = time.time()
    for name, data in (("pending/b", b"22"), ("pending/a", b"1"), ("pending/.hidden", b""), ("pending/deeper/c", b"")):
        place.put(name, data)
    place.scratch().write_bytes(b"not finished")
    found = place.entries("pending")
    assert [(entry.name, entry.bytes) for entry in found] == [("pending/a", 1), ("pending/b", 2)]
    # Object stores tell whole seconds.
    assert all(before - 2 < entry.modified < time.time() + 2 for entry in found)
    assert place.entries("nothing") == []


def test_a_parquet_file_is_placed_and_read(place: Storage) -> None:
    data = put_table(place, "shards/x.parquet")
    assert place.read("shards/x.parquet") == data
    assert place.read_table("shards/x.parquet").equals(TABLE)
    assert place.read_table("shards/x.parquet", ("row",)).to_pydict() == {"row": [1, 2]}
    assert place.read_schema("shards/x.parquet").names == ["id", "row"]
    assert place.download("shards/x.parquet").read_bytes() == data


def test_removing_a_file_twice_is_as_good_as_once(place: Storage) -> None:
    place.put("pending/a", b"")
    place.remove("pending/a")
    place.remove("pending/a")
    assert place.entries("pending") == []


@pytest.mark.parametrize("verb", ["read", "read_table", "read_schema"])
def test_a_file_that_is_not_there_is_said_to_be_missing(place: Storage, verb: str) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(place, verb)("shards/nothing.parquet")


def test_a_place_can_be_sent_to_another_process(place: Storage) -> None:
    place.put("a/b", b"x")
    again = pickle.loads(pickle.dumps(place))  # noqa: S301
    assert (again.read("a/b"), str(again)) == (b"x", place.url)


def test_a_place_that_can_hold_a_set_is_left_as_it_was(place: Storage) -> None:
    place.require_writable()
    assert place.entries("snapshots") == place.entries("scratch") == []


def test_what_another_program_writes_is_listed_at_once(s3: str) -> None:
    place = open_storage(s3)
    place.put("pending/a", b"1")
    assert [entry.name for entry in place.entries("pending")] == ["pending/a"]
    boto3.client("s3").put_object(Bucket=s3.removeprefix("s3://"), Key="pending/b", Body=b"1")
    assert [entry.name for entry in place.entries("pending")] == ["pending/a", "pending/b"]


class Overwriting(LocalStorage):
    """What a store does that knows no conditional writes."""

    def create(self, name: str, data: bytes) -> None:
        self.put(name, data)


def test_a_place_that_overwrites_what_it_should_create_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MgvrError, match=r"can't hold a feature set: it overwrites a file.*lose one another's work"):
        Overwriting(tmp_path).require_writable()
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_an_object_store_that_ignores_the_condition_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("s3", use_listings_cache=False)
    pipe = files.pipe_file
    monkeypatch.setattr(files, "pipe_file", lambda path, data, mode="overwrite": pipe(path, data))
    monkeypatch.setattr(storage_module, "filesystem", lambda scheme: files)
    with pytest.raises(MgvrError, match=f"{s3} can't hold a feature set: it overwrites a file"):
        open_storage(s3).require_writable()


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path, s3: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MgvrError, match=r"file can't hold a feature set: .*hard links"):
        LocalStorage(tmp_path / "file").require_writable()
    with pytest.raises(MgvrError, match=r"can't hold a feature set: .*bucket does not exist.*credentials"):
        open_storage("s3://no-such-bucket/set").require_writable()


class Client:
    """A store's client of which every verb fails alike."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> None:
            raise self._error

        return fail


class ClientError(Exception):
    """As boto's: what the server said is in `response`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> ObjectStorage:
    monkeypatch.setattr(storage_module, "filesystem", lambda scheme: Client(error))
    return ObjectStorage("s3://bucket/set")


@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionalRequestConflict", "412", "409"])
def test_every_store_s_words_for_a_name_that_is_taken_are_understood(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """s3fs knows those of AWS; MinIO and others send no `Condition`, and a conflict is a race that another wins."""
    refusal = OSError(22, "At least one of the pre-conditions you specified did not hold")
    refusal.__cause__ = ClientError(code)
    with pytest.raises(FileExistsError):
        failing(monkeypatch, refusal).create("snapshots/1.json", b"")


def test_another_refusal_is_no_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = PermissionError("Access Denied")
    refusal.__cause__ = ClientError("AccessDenied")
    with pytest.raises(PermissionError, match="Access Denied"):
        failing(monkeypatch, refusal).create("snapshots/1.json", b"")


@pytest.mark.parametrize(
    "call",
    [
        lambda place: place.read("a"),
        lambda place: place.read_table("a"),
        lambda place: place.read_schema("a"),
        lambda place: place.entries("a"),
        lambda place: place.create("a", b""),
        lambda place: place.put("a", b""),
        lambda place: place.place(place.scratch(), "a"),
        lambda place: place.remove("a"),
        lambda place: place.download("a"),
    ],
)
def test_whatever_a_client_raises_is_an_oserror(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Storage], object]
) -> None:
    """No credentials, no such host: the clients have exceptions of their own, which no caller could know."""
    with pytest.raises(OSError, match="ClientError: no credentials"):
        call(failing(monkeypatch, ClientError("no credentials")))


def test_a_store_without_credentials_is_refused_with_the_reason(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    monkeypatch.setattr(storage_module, "filesystem", lambda scheme: files)
    with pytest.raises(MgvrError, match="can't hold a feature set: NoCredentialsError: Unable to locate credentials"):
        open_storage(s3).require_writable()


def test_a_file_whose_age_the_store_does_not_tell_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """gc must not take it for rubbish."""
    before = time.time()
    listing = [{"name": "bucket/set/shards/a", "type": "file", "size": 1}]
    client = type("Client", (), {"ls": lambda self, path, detail: listing})()
    monkeypatch.setattr(storage_module, "filesystem", lambda scheme: client)
    (entry,) = ObjectStorage("s3://bucket/set").entries("shards")
    assert entry.modified >= before


@pytest.mark.parametrize("stamp", ["2026-01-02T03:04:05Z", "2026-01-02T04:04:05+01:00"])
def test_a_time_that_a_store_gives_as_text_is_understood(monkeypatch: pytest.MonkeyPatch, stamp: str) -> None:
    listing = [{"name": "bucket/set/shards/a", "type": "file", "size": 1, "updated": stamp}]
    client = type("Client", (), {"ls": lambda self, path, detail: listing})()
    monkeypatch.setattr(storage_module, "filesystem", lambda scheme: client)
    (entry,) = ObjectStorage("gs://bucket/set").entries("shards")
    assert entry.modified == 1767323045.0


def test_addresses_lead_to_their_kind_of_place(tmp_path: Path, s3: str) -> None:
    for name in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert open_storage(name).url == str(tmp_path)
    assert isinstance(open_storage(s3), ObjectStorage)
    upper = open_storage(f"S3{s3.removeprefix('s3')}/set/")
    upper.put("a/b", b"x")
    assert open_storage(f"{s3}/set").read("a/b") == b"x"


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(MgvrError, match=r"ftp://host/set: a feature set lies in a folder or at s3://, gs://"):
        open_storage("ftp://host/set")


def test_a_client_that_is_not_installed_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str, **_: Any) -> None:
        raise ImportError("no module named gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MgvrError, match=r"gs:// can't be reached: .*gcsfs; install mgvr\[gcs\]"):
        open_storage("gs://bucket/set")


def test_a_configured_place_is_a_folder_or_an_object_store() -> None:
    valid = TypeAdapter(StorePath).validate_python
    assert [valid(name) for name in ("runs/a", "file:///runs/a", "s3://b/a")] == ["runs/a", "/runs/a", "s3://b/a"]
    with pytest.raises(ValidationError, match="must be a folder, or begin with one of s3://, gs://"):
        valid("ftp://host/a")


def test_the_name_of_a_local_folder_is_no_column(tmp_path: Path) -> None:
    place = open_storage(tmp_path / "model=a")
    put_table(place, "shards/x.parquet")
    assert place.read_table("shards/x.parquet").schema.names == ["id", "row"]


def test_a_download_that_fails_leaves_nothing(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        open_storage(s3).download("shards/nothing.parquet")
    assert list(tmp_path.iterdir()) == []
