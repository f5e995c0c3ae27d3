"""decord stays selectable, and never returns a wrong frame unannounced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.video import decoders
from mgvr_core.video.decoders import Clip, DecodeError, Request, decode
from mgvr_core.video.sampling import SamplingConfig, instants
from mgvr_core.video.sandbox import Sandbox


@pytest.fixture(scope="module")
def decord() -> Iterator[Sandbox]:
    pytest.importorskip("decord", reason="decord has wheels for Linux on x86-64 only")
    with Sandbox("decord") as sandbox:
        yield sandbox


def test_on_real_clips_it_gives_the_default_decoders_frames_or_refuses(decord: Sandbox, good_clip: Path) -> None:
    refusal = frames_of_the_default_decoder(decord, good_clip, levels=4)
    assert refusal is None or refusal.kind == "unsupported"


def test_on_odd_clips_it_gives_the_default_decoders_frames_or_refuses(decord: Sandbox, odd_clip: Path) -> None:
    frames_of_the_default_decoder(decord, odd_clip, levels=8)  # test patterns: sharp colours


def frames_of_the_default_decoder(decord: Sandbox, path: Path, levels: int) -> DecodeError | None:
    """Checks that decord gives them, or returns the fault for which it doesn't."""
    request = Request(str(path), SamplingConfig(strategy="uniform", frames=4), 64)
    theirs = clip_or_fault(decord, request)
    if isinstance(theirs, DecodeError):
        return theirs
    ours = decode("pyav", request)
    np.testing.assert_allclose(theirs.timestamps, ours.timestamps, atol=1e-6)
    # Its colour conversion differs by a few grey levels, but never by as much as another frame does.
    apart = np.abs(theirs.frames[:, None].astype(int) - ours.frames).mean(axis=(2, 3, 4))  # (theirs, ours)
    assert apart.diagonal().max() < levels
    assert np.all(apart.diagonal() <= apart.min(axis=1) + 0.5)
    return None


def clip_or_fault(sandbox: Sandbox, request: Request) -> Clip | DecodeError:
    try:
        return sandbox.decode(request)
    except DecodeError as error:
        return error


ACCEPTED = {"bframes.mp4", "one_key.mp4", "bframes.mkv", "hevc10.mkv", "vp9.webm"}


def test_the_pictures_themselves_say_that_they_are_the_right_ones(decord: Sandbox, films, film_name: str) -> None:
    film = films[film_name]
    sampling = SamplingConfig(fps=5, frames=100)
    request = Request(str(film.path), sampling, 64)
    if film_name in ACCEPTED:
        assert films.numbers(decord.decode(request).frames) == film.expected(instants(film.duration, sampling))
    else:
        with pytest.raises(DecodeError) as caught:
            decord.decode(request)
        assert caught.value.kind in ("unsupported", "decoder_error")


def test_a_file_it_gets_wrong_is_refused_by_name(decord: Sandbox, films) -> None:
    with pytest.raises(DecodeError, match=r"open_gop\.mp4: decord can't be trusted .* use the pyav decoder"):
        decord.decode(Request(str(films["open_gop.mp4"].path), SamplingConfig(), 64))


def test_frames_too_narrow_for_it_are_refused(decord: Sandbox, films, tmp_path: Path) -> None:
    path = films.write(tmp_path / "tiny.mp4", [np.full((2, 2, 3), 200, np.uint8)] * 12)
    with pytest.raises(DecodeError, match=r"garbled.* use the pyav decoder") as caught:
        decord.decode(Request(str(path), SamplingConfig(), 8))
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip"), [(0, True, False), (0, False, True), (90, False, False), (180, False, False)]
)
def test_pictures_that_a_viewer_turns_or_mirrors_are_refused(
    decord: Sandbox, films, tmp_path: Path, degrees: int, hflip: bool, vflip: bool
) -> None:
    """It turns by the container's angle alone: it would mirror nothing, nor turn as a flag in the stream asks."""
    path = films.write(
        tmp_path / "turned.mp4",
        [films.numbered(number) for number in range(12)],
        prepare=lambda stream: stream.set_display_rotation(degrees, hflip, vflip),
    )
    with pytest.raises(DecodeError, match="turned or mirrored") as caught:
        decord.decode(Request(str(path), SamplingConfig(), 64))
    assert caught.value.kind == "unsupported"


def test_of_several_videos_it_would_take_its_own_choice_and_is_refused(decord: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=12) for _ in range(2)]
        for stream, side in zip(streams, (128, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for stream in streams:
            for _ in range(12):
                picture = np.zeros((stream.height, stream.width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
    with pytest.raises(DecodeError, match="several videos") as caught:
        decord.decode(Request(str(path), SamplingConfig(), 64))
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("name", ["bframes.mp4", "bframes.mkv"])
def test_damage_that_its_library_reports_is_handed_on(films, chain: Sandbox, tmp_path: Path, name: str) -> None:
    data = bytearray(films[name].path.read_bytes())
    with av.open(str(films[name].path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size > 60]
    for position, size in packets[1::2]:
        data[position + size // 2 : position + size // 2 + 8] = bytes(8)
    path = tmp_path / name
    path.write_bytes(data)
    request = Request(str(path), SamplingConfig(fps=12, frames=90), 64)
    clip, ours = chain.decode(request), decode("pyav", request)
    assert clip.decoder == "pyav"
    np.testing.assert_array_equal(clip.frames, ours.frames)


def test_what_it_refuses_the_fallback_decodes(films, film_name: str, chain: Sandbox) -> None:
    request = Request(str(films[film_name].path), SamplingConfig(fps=5, frames=100), 64)
    clip, ours = chain.decode(request), decode("pyav", request)
    assert clip.decoder == ("decord" if film_name in ACCEPTED else "pyav")
    np.testing.assert_allclose(clip.timestamps, ours.timestamps, atol=1e-6)
    if clip.decoder == "pyav":
        np.testing.assert_array_equal(clip.frames, ours.frames)


@pytest.fixture(scope="module")
def chain() -> Iterator[Sandbox]:
    pytest.importorskip("decord", reason="decord has wheels for Linux on x86-64 only")
    with Sandbox("decord", fallback="pyav") as sandbox:
        yield sandbox


def test_a_chain_is_named_the_same_with_and_without_a_child(chain: Sandbox) -> None:
    own, fallback = decoders.decoder_version("decord"), decoders.decoder_version("pyav")
    assert chain.version() == decoders.chain_version("decord", "pyav") == f"{own} then {fallback}"
    assert decoders.chain_version("pyav") == fallback


def test_where_it_is_not_installed_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decoders._MODULES, "decord", "mgvr_core.video.no_such_module")
    with pytest.raises(MgvrError, match=r"'decord' is not installed here .* use 'pyav'"):
        decoders.decoder_version("decord")


def test_an_unknown_decoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(MgvrError, match="'gstreamer'; there are pyav, decord"):
        decoders.load("gstreamer")
