"""The pages, and what a browser may do with them: run and show what stands in them, and ask this server."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

from fastapi.responses import HTMLResponse, Response

FOLDER = Path(__file__).parent / "page"


def page(name: str) -> Callable[[], Awaitable[Response]]:
    """What answers with that file."""
    content = (FOLDER / name).read_text(encoding="utf-8")
    policy = (
        "default-src 'none'",
        f"script-src {digests(content, 'script')}",
        f"style-src {digests(content, 'style')}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )

    async def answer() -> Response:
        return HTMLResponse(content, headers={"content-security-policy": "; ".join(policy)})

    return answer


def digests(content: str, kind: str) -> str:
    """Of all that stands between <kind> and </kind>, as a Content-Security-Policy names it."""
    blocks = re.findall(f"<{kind}>(.*?)</{kind}>", content, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(block.encode()).digest()).decode()}'" for block in blocks)
