"""The machine's bound: the graph of notification_fanout with decide replaced by a JVM function that copies.

It shares sources, expansion, keyBy, routing and sinks; every record becomes one on ``decisions`` and one delivery, as a
plain send does.
``flink run -pym benchmarks.passthrough`` with the flags of the job.
"""

from __future__ import annotations

import sys
from typing import Any

from jobs import notification_fanout
from jobs.flink import constant, runtime, union
from messages.policy import Policy
from messages.topics import DECISIONS, DELIVERIES


class PassThroughGraph(notification_fanout.Graph):
    """The graph without Python."""

    def decide(self, inputs: list[Any], policies: Any, policy: Policy) -> Any:
        """Copy each keyed row to both topics."""
        keyed = union(*inputs).keyBy(runtime("KeyedRow$ByKey"), constant("KeyedRow", "TYPE").getTypeAt(0))
        both = f"{DECISIONS};{DELIVERIES['fcm', 'background']}"
        return keyed.process(runtime("PassThrough", both)).name("pass through").uid("pass through")


if __name__ == "__main__":
    notification_fanout.main(sys.argv[1:], PassThroughGraph)
