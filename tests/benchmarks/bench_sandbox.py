"""What safety costs: decoding in the killable child, against decoding in this process."""

from __future__ import annotations

import numpy as np

from mgvr_core.video.decoders import Request, decode
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Sandbox

CLIPS, SECONDS = 20, 12


def test_sandbox_against_this_process(film, race) -> None:
    requests = [Request(str(film(f"{n}.mp4", SECONDS)), SamplingConfig(), size=224) for n in range(CLIPS)]

    def fresh_child() -> None:
        with Sandbox() as sandbox:
            sandbox.decode(requests[0])

    with Sandbox() as sandbox:
        for request in requests:
            np.testing.assert_array_equal(sandbox.decode(request).frames, decode("pyav", request).frames)
        ratio = race(
            lambda: [sandbox.decode(request) for request in requests],
            lambda: [decode("pyav", request) for request in requests],
        )
        start = race(fresh_child, lambda: sandbox.decode(requests[0]))
    print(
        f"\n{CLIPS} clips of {SECONDS} s: the sandbox takes {ratio:.2f} times as long as decoding in this process; "
        f"the first clip of a new child {start:.1f} times as long as a later one"
    )
