"""How often one may guess: a few failures for each name, and more for each address, in a quarter of an hour."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque

from millet.serve.errors import ApiError

WINDOW = 900.0  # seconds
PER_NAME = 8
PER_ADDRESS = 40
REMEMBERED = 20_000  # names and addresses; the longest unused are forgotten


class Throttle:
    """Counts attempts of this process."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, name: str, address: str) -> None:
        """An attempt, counted as a failure until `succeeded`. Raises ApiError 429."""
        address = _site(address)
        now = time.monotonic()
        with self._lock:
            counted = [
                (self._recent(f"address {address}", now), PER_ADDRESS),
                (self._recent(f"name {name}", now), PER_NAME),
            ]
            for attempts, most in counted:
                if len(attempts) >= most:
                    wait = attempts[0] + WINDOW - now
                    raise ApiError(
                        429,
                        f"too many attempts to sign in; try again in {max(1, round(wait / 60))} min",
                        code="too_many_attempts",
                        retry_after=wait,
                    )
            for attempts, _ in counted:
                attempts.append(now)

    def succeeded(self, name: str, address: str) -> None:
        """The name's failures are forgotten; of the address's only this attempt, lest one good account lets it guess
        at others for ever."""
        with self._lock:
            self._attempts.pop(f"name {name}", None)
            if attempts := self._attempts.get(f"address {_site(address)}"):
                attempts.pop()

    def _recent(self, who: str, now: float) -> deque[float]:
        attempts = self._attempts.setdefault(who, deque())
        self._attempts.move_to_end(who)
        while attempts and attempts[0] <= now - WINDOW:
            attempts.popleft()
        while len(self._attempts) > REMEMBERED:
            self._attempts.popitem(last=False)
        return attempts


def _site(address: str) -> str:
    """What counts as one address: of IPv6 a whole /64, since whoever has one address has all of them."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address) or ip.ipv4_mapped is not None:
        return address
    return str(ipaddress.IPv6Network((int(ip), 64), strict=False))
