"""Pictures inside a page: no file beside it, no request."""

from __future__ import annotations

import base64


def data_uri(jpeg: bytes) -> str:
    """The bytes of a JPEG as a `data:` URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
