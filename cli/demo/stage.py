"""The cast on the running stack: what it is given, what happens to it, and an operator who looks after the quarantine."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cli.demo import cast
from cli.demo.producing import produce
from cli.gateway_calls import GatewayCalls, user_path
from connectors.log_positions import end_offsets, wait_until_read
from connectors.policy_files import load_policies
from connectors.policy_log import publish
from connectors.quarantine import Held, Quarantine, Wanted
from connectors.settings import ROOT, Settings
from messages.codec import encode_json
from messages.topics import CHANGES, EVENTS, POLICIES
from messages.words import DEFAULT_TENANT, LANES, Lane, user_key

_TICK = 0.5
_LOOK_EVERY = 2.0
_LIFTED_WITHIN = 5.0
"""Seconds that the lifting of a pause may take to be known everywhere."""
_PATIENCE = 90.0
"""Seconds for which the operator waits for what is to be held, and a reader for what is to be in the inbox."""
_IN_TIME = timedelta(seconds=10)

Say = Callable[[str], None]


class Stage:
    """Call ``prepare``, then ``begin``; from there on a thread does what is to happen later, until ``stop``.

    ``events`` counts the events produced, by lane, released ones again; ``cast_events`` those of the cast, ``malformed``
    what of them nobody can decide. ``held`` has user and reason of each record that the quarantine has held, by its place.
    ``finished``: nothing is left to do, as far as is known.
    """

    def __init__(self, settings: Settings, say: Say) -> None:
        self.events: Counter[Lane] = Counter()
        self.cast_events = 0
        self.malformed = 0
        self.held: dict[str, tuple[str, str]] = {}
        self.finished = False
        self._settings = settings
        self._kafka = settings.kafka
        self._say = say
        self._left: list[cast.CommandCue | cast.ReadCue] = []
        self._lane_of: dict[str, Lane] = {self._kafka.prefix + EVENTS[lane]: lane for lane in LANES}
        self._lifted_at: float | None = None
        self._look_at = 0.0
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)

    def prepare(self) -> None:
        """Put the overrides into force and load the cast's profiles; returns when the job has read them.

        Some of it is about this minute and this day: where the job took too long, it is done again.
        """
        time_zone = load_policies(ROOT / self._settings.job.policies).defaults.time_zone
        while True:
            now = datetime.now(UTC)
            overrides = cast.overrides(now, time_zone)
            for override in overrides:
                publish(self._kafka, override.key, encode_json(override))
            produce(self._kafka, ((CHANGES, key, value) for key, value in cast.profile_commands(now)))
            ends = end_offsets(self._kafka, CHANGES) | end_offsets(self._kafka, POLICIES)
            wait_until_read(self._kafka, self._kafka.prefix + self._settings.job.group, ends, 300)
            begins = datetime.now(UTC)
            if begins + _IN_TIME < cast.quiet_until(now) and cast.overrides(begins, time_zone) == overrides:
                self._say(f"{len(overrides)} overrides lie over the packaged policies; {len(cast.CAST)} people are ready")
                return

    def begin(self) -> None:
        """Produce the cast's events, and go on in the background."""
        now = datetime.now(UTC)
        first: list[cast.EventCue] = []
        for member in cast.CAST:
            for cue in cast.cues(member, now):
                if isinstance(cue, cast.EventCue):
                    first.append(cue)
                    self.events[cue.lane] += 1
                    self.malformed += "invalid_event" in member.reasons
                else:
                    self._left.append(cue)
        self.cast_events = len(first)
        # By the key an event keeps its place among those of its user.
        produce(self._kafka, ((EVENTS[cue.lane], user_key(DEFAULT_TENANT, cue.user), cue.payload) for cue in first))
        self._thread.start()

    def reasons(self) -> Counter[str]:
        """How many records were held, by reason."""
        return Counter(reason for _, reason in self.held.values())

    def check(self) -> None:
        """Raise what went wrong in the background."""
        if self._failure is not None:
            raise RuntimeError(f"the demo's cast: {self._failure}") from self._failure

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(60)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            while not self._ended.wait(_TICK):
                elapsed = time.monotonic() - began
                self._left = [cue for cue in self._left if cue.after > elapsed or not self._happens(cue, elapsed)]
                if elapsed >= self._look_at:
                    self._look_at = elapsed + _LOOK_EVERY
                    self._look_after_quarantine(elapsed)
        except Exception as error:
            self._failure = error

    def _happens(self, cue: cast.CommandCue | cast.ReadCue, elapsed: float) -> bool:
        """Do it; False where it cannot be done yet."""
        if isinstance(cue, cast.CommandCue):
            produce(self._kafka, [(CHANGES, user_key(DEFAULT_TENANT, cue.user), cue.payload)])
            return True
        gateway, user = GatewayCalls(self._settings), (DEFAULT_TENANT, cue.user)
        items = gateway.call("GET", user_path(user, "/inbox"))["items"]
        item = next((each["id"] for each in items if each.get("event_id") == cue.event_id), None)
        if item is not None:
            gateway.call("POST", user_path(user, f"/inbox/{item}/read"))
        elif elapsed > cue.after + _PATIENCE:
            raise TimeoutError(f"{cue.event_id} is not in the inbox of {cue.user}")
        return item is not None

    def _look_after_quarantine(self, elapsed: float) -> None:
        """When something is held for each of the reasons, lift the pause; after that release whatever is held."""
        quarantine = Quarantine(self._kafka)
        waiting = list(quarantine.waiting(Wanted()))
        for each in waiting:
            self.held[each.place] = _user(each), each.reason
        if self._lifted_at is None:
            if self.reasons().keys() >= set(cast.HELD) or elapsed > _PATIENCE:
                publish(self._kafka, cast.PAUSED.key, None)
                self._lifted_at = elapsed
                self._say(f"{len(waiting)} events are held; the pause of {cast.PAUSED.name} is lifted")
        elif elapsed > self._lifted_at + _LIFTED_WITHIN:
            self.finished = not waiting and not self._left
            if waiting:
                # First, that nobody thinks that all was counted.
                self.events.update(self._lane_of[each.topic] for each in waiting if each.topic in self._lane_of)
                quarantine.release(waiting)
                self._say(f"{len(waiting)} records are released from the quarantine")


def _user(held: Held) -> str:
    return (held.key or b"").decode().partition("/")[2]
