"""The retrieve job as a program of its own, for a test that kills it: `retrieve_kills.py SETTINGS.json`.

A block of texts takes a moment, so that there is time to kill it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from mgvr_core.config import parse
from pipelines.retrieve import RetrieveConfig, retrieve
from pipelines.searching import Crew

PACE_S = 0.5


def main(settings: str) -> None:
    search = Crew.search

    def slow(self: Crew, *asked: Any) -> Any:
        time.sleep(PACE_S)
        return search(self, *asked)

    Crew.search = slow  # type: ignore[method-assign]
    retrieve(parse(RetrieveConfig, json.loads(Path(settings).read_text()), "the test"))


if __name__ == "__main__":
    main(*sys.argv[1:])
