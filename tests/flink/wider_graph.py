"""The graph with one source more; shipped beside the job's own modules by a test."""

from __future__ import annotations

import sys
from typing import Any

from jobs.flink import constant, runtime, side_output, union
from jobs.notification_fanout import Graph, main
from messages.policy import Policy
from messages.topics import COUNTS, REJECTED

PARTNER = "events.partner"


class WiderGraph(Graph):
    """Reads events of a partner, too."""

    def decide(self, inputs: list[Any], policy: Policy) -> Any:
        """The keyed operator with one input more."""
        name = f"expand {PARTNER}"
        expand = runtime("ExpandRecipients", constant("KeyedRow", "BACKGROUND"))
        self._partner = self.read(PARTNER).process(expand).name(name).uid(name)
        return super().decide([*inputs, self._partner], policy)

    def route(self, rows: Any, routes: dict[str, str], name: str) -> Any:
        """What leaves beside the decisions goes where that of the other inputs goes."""
        if name == "route":
            rows = union(rows, *(self._partner.getSideOutput(side_output(topic)) for topic in (COUNTS, REJECTED)))
        return super().route(rows, routes, name)


if __name__ == "__main__":
    main(sys.argv[1:], WiderGraph)
