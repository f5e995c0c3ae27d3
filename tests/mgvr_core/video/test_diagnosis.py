"""A file that gives no frame is listed with what is really wrong with it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import av
import pytest

from mgvr_core.video import diagnosis
from mgvr_core.video.decoders import DecodeError, Request, decode, require_regular_file
from mgvr_core.video.sampling import SamplingConfig


def fault_of(path: Path, data: bytes) -> tuple[str, str]:
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=path.name) as caught:
        decode("pyav", Request(str(path), SamplingConfig(), 32))
    return caught.value.kind, str(caught.value)


def remux(source: Path, target: Path, flags: str) -> None:
    with av.open(str(source)) as given, av.open(str(target), "w", options={"movflags": flags}) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.95])
def test_an_mp4_cut_before_its_index_is_truncated(films, tmp_path: Path, part: float) -> None:
    data = films["bframes.mp4"].path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    kind, message = fault_of(tmp_path / "cut.mp4", data[: int(part * len(data))])
    assert kind == "truncated"
    assert "cut short" in message


@pytest.mark.parametrize("name", ["bframes.mkv", "vp9.webm", "bframes.avi"])
def test_other_containers_cut_inside_their_headers_are_truncated(films, tmp_path: Path, name: str) -> None:
    data = films[name].path.read_bytes()
    for size in (60, 150):
        assert fault_of(tmp_path / f"{size}-{name}", data[:size])[0] == "truncated"


def test_a_cut_file_of_which_not_one_frame_is_left_is_truncated(films, tmp_path: Path) -> None:
    path = tmp_path / "faststart.mp4"
    remux(films["bframes.mp4"].path, path, "faststart")
    data = path.read_bytes()
    kind, message = fault_of(tmp_path / "cut.mp4", data[: data.index(b"mdat") + 20])
    assert kind == "truncated"
    assert "frame" in message


def test_a_media_segment_without_its_header_is_a_fragment(films, tmp_path: Path) -> None:
    path = tmp_path / "fragmented.mp4"
    remux(films["bframes.mp4"].path, path, "frag_keyframe+empty_moov+default_base_moof")
    data = path.read_bytes()
    segment = data[data.index(b"moof") - 4 :]
    assert fault_of(tmp_path / "segment.m4s", segment)[0] == "fragment"
    assert fault_of(tmp_path / "cut.m4s", segment[: len(segment) // 2])[0] == "fragment"
    decode("pyav", Request(str(path), SamplingConfig(), 32))  # with it, an ordinary video


def test_a_container_whose_structure_is_destroyed_is_corrupt(films, tmp_path: Path) -> None:
    data = films["bframes.mp4"].path.read_bytes()
    place = data.index(b"moov")
    assert fault_of(tmp_path / "no_moov.mp4", data[: place - 4] + bytes(len(data) - place + 4))[0] == "corrupt"
    flv = films["h264.flv"].path.read_bytes()
    assert fault_of(tmp_path / "short.flv", flv[:8])[0] in ("corrupt", "no_video_stream")


def test_bytes_of_no_format_are_not_called_truncated(tmp_path: Path) -> None:
    for number, data in enumerate((b"\0", b"ftyp", b"<html>", bytes(1000), b"\x1a\x45", b"\xff" * 500)):
        assert fault_of(tmp_path / f"{number}.mp4", data)[0] == "not_a_video"


@pytest.mark.parametrize(("locked", "kind"), [(True, "encrypted"), (False, "corrupt")])
def test_an_encrypted_webm_is_called_that(tmp_path: Path, locked: bool, kind: str) -> None:
    key = element("47e1", b"\x05") + element("47e2", bytes(range(16)))  # AES, and which key
    encoding = element("6d80", element("6240", element("5033", b"\x01") + element("5035", key))) if locked else b""
    size = element("e0", element("b0", b"\x40") + element("ba", b"\x40"))  # 64 x 64 pixels
    track = element("d7", b"\x01") + element("73c5", b"\x01") + element("83", b"\x01") + element("86", b"V_VP8")
    tracks = element("1654ae6b", element("ae", track + size + encoding))
    cluster = element("1f43b675", element("e7", b"\0") + element("a3", b"\x81\0\0\x80" + b"noise " * 9))
    head = element("1a45dfa3", element("4282", b"webm"))
    assert fault_of(tmp_path / "a.webm", head + element("18538067", tracks + cluster))[0] == kind


def element(identity: str, content: bytes) -> bytes:
    """An EBML element; identity in hexadecimal."""
    return bytes.fromhex(identity) + (0x4000 | len(content)).to_bytes(2, "big") + content


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_the_system_refuses_is_unreadable_and_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "there.mp4"
    path.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DecodeError, match=os.strerror(code)) as caught:
        require_regular_file(str(path))
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize("name", ["absent", "x" * 5000, "a\0b"])
def test_a_name_that_leads_nowhere_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        require_regular_file(str(tmp_path / name))
    assert caught.value.kind == "missing"


def test_a_disk_that_fails_on_the_way_is_told_from_a_file_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there.mp4"
    path.write_bytes(b"x")
    failing = av.error.OSError(errno.EIO, os.strerror(errno.EIO))
    diagnosis.refuse_unreadable(
        str(path), failing
    )  # a demuxer says EIO, and the file can be read: no fault of the disk

    class Disk(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", lambda *_, **__: Disk())
    diagnosis.refuse_unreadable(str(path), av.error.InvalidDataError(1094995529, "Invalid data"))
    with pytest.raises(DecodeError, match="put/output error") as caught:
        diagnosis.refuse_unreadable(str(path), failing)
    assert caught.value.kind == "unreadable"
