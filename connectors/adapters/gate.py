"""Stops all sending while our own account is misconfigured, and lets one delivery at a time try whether it still is.

This is not a circuit breaker (windows, rates, ramp): it only keeps a wrong credential from being offered thousands of
times, and messages from being lost to it.
"""

from __future__ import annotations


class Gate:
    """Open at first; ``refusals`` counts the refusals since the account was last accepted."""

    def __init__(self) -> None:
        self.refusals = 0
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether the account was refused and has not been accepted since."""
        return self.refusals > 0

    def probe(self) -> bool:
        """Ask to be the one who tries; True for one caller at a time, who must then ``leave``."""
        if self._probing:
            return False
        self._probing = True
        return True

    def leave(self) -> None:
        """The probe is done, or gave up."""
        self._probing = False

    def refused(self, probe: bool) -> None:
        """The account was refused. Of many refused at once only the first counts, then every probe."""
        if probe or not self.closed:
            self.refusals += 1

    def accepted(self) -> None:
        """The account was not refused: open."""
        self.refusals = 0
