"""decord stays selectable, and never returns a wrong frame unannounced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    request = Request(str(good_clip), SamplingConfig(strategy="uniform", frames=3), 64)
    theirs = clip_or_fault(decord, request)
    if isinstance(theirs, DecodeError):
        assert theirs.kind == "unsupported"
        return
    ours = decode("pyav", request)
    np.testing.assert_allclose(theirs.timestamps, ours.timestamps)
    # Its colour conversion differs by a grey level or two.
    assert np.abs(theirs.frames.astype(int) - ours.frames).mean(axis=(1, 2, 3)).max() < 4


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
