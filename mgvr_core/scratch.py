"""Files for a moment, on this machine's own disk: named after the process that made them, so that a kill leaves none.

A process that is killed can't remove its files; whoever starts next on the machine does.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

_NAME = re.compile(r"mgvr-(\d+)-")


def new_file(suffix: str = "") -> Path:
    """An empty file, for this process to remove."""
    handle, path = tempfile.mkstemp(prefix=f"mgvr-{os.getpid()}-", suffix=suffix)
    os.close(handle)
    return Path(path)


def sweep() -> None:
    """Remove what processes that are no more have left."""
    for path in Path(tempfile.gettempdir()).glob("mgvr-*-*"):
        found = _NAME.match(path.name)
        if found and path.is_file() and not _runs(int(found[1])):
            with contextlib.suppress(OSError):  # somebody else's, or swept meanwhile
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
