"""Stops all sending while our own account is misconfigured, and lets one delivery at a time try whether it still is.

This is not a circuit breaker (windows, rates, ramp): it only keeps a wrong credential from being offered thousands of
times, and messages from being lost to it.
"""

from __future__ import annotations

import asyncio


class Gate:
    """Open at first. Those who find it closed queue up in ``enter``; one of them at a time is the probe."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self.refusals = 0

    @property
    def closed(self) -> bool:
        """Whether the account was refused and has not been accepted since."""
        return self.refusals > 0

    async def enter(self) -> bool:
        """Wait for one's turn; True where the gate is still closed: the caller is the probe and must ``leave``."""
        await self._turn.acquire()
        if self.closed:
            return True
        self._turn.release()
        return False

    def leave(self) -> None:
        """The probe is done, or gave up: the next in the queue goes."""
        self._turn.release()

    def refused(self, probe: bool) -> None:
        """The account was refused. Of many refused at once only the first counts, then every probe."""
        if probe or not self.closed:
            self.refusals += 1

    def accepted(self) -> None:
        """The account was not refused: open."""
        self.refusals = 0
