"""Who may ask the page: its own visitors, and no other page that is open in their browsers.

Any page can send requests to this machine from the browser of whoever looks at it. What it sends comes with its own name as the
origin, or, where it has its name lead to this machine (DNS rebinding), with that name as the host. Both are refused.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from scalespace.errors import UserError

__all__ = ["check_visitor"]


def check_visitor(headers: Mapping[str, str]) -> None:
    """Refuse a request that the page itself has not sent.

    Args:
        headers: Headers of the request, by names in lower case.

    Raises:
        UserError: If it is refused.
    """
    host = headers.get("host", "")
    if not _is_own(host):
        raise UserError(
            "the page was opened by a name that is not this machine's; open it by the address that it was started at"
        )
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise UserError("another page has sent this; open the page itself")


def _is_own(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
