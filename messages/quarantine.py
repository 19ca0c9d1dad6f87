"""What is held in the quarantine, and what an operator did with it."""

from __future__ import annotations

from typing import Literal

import msgspec

from messages.codec import json_decoder
from messages.topics import RejectedHeaders

HoldReason = Literal["paused", "source_quarantined"]
HoldStage = Literal["gateway", "read", "deliver"]
"""Where it was held: an event at the gateway, one from Kafka in the expand step, a delivery in its adapter."""


class EventHeaders:
    """Names of the headers by which a record on an events topic is exempt from its source's rate; the value is ``1``.

    ``RELEASED``: an operator has let it out of the quarantine. ``ADMITTED``: the gateway has charged the rate for it.
    ``RecordReader.java`` knows both names. A pause holds such a record all the same.
    """

    RELEASED = "released"
    ADMITTED = "admitted"


class QuarantinedHeaders(RejectedHeaders):
    """Names of the headers of a record on ``quarantined``: those on ``rejected``, where ``STAGE`` is a HoldStage.

    Key and value are the original's, byte for byte. ``TOPIC`` (prefix included) is where a release puts it back. An event
    that was held at the gateway has never been on that topic: ``PARTITION`` and ``OFFSET`` are -1.
    """


class QuarantineMark(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="v", tag=1):
    """What became of a record on ``quarantined``, whose ``partition/offset`` is the key; ``at`` in milliseconds.

    Written after a release was acknowledged: a mark that is missing means a repeat, never a loss.
    """

    status: Literal["released", "discarded"]
    at: int


decode_mark = json_decoder(QuarantineMark)
