"""What a worker does with one delivery: claim, send, classify, then retry or end; and report the end.

A delivery's way, and what a death of the process on each line means. "Read again" is Kafka's: nothing is committed
before the last line.

1. read, decoded                     read again, nothing had happened
2. claimed: ``sending``              read again, found ``sending`` of a dead owner: ambiguous, although nothing was sent
3. expired? paused? rendered, built  the same
4. sent, answered                    the same, and now it may have been accepted: that is what ambiguous means
5. not accepted: claim ``released``  read again, free: sent as if for the first time, its attempts counted on
6. waited, claimed again             as 5 while it waits, then as 2
7. the end is in the claim           read again, found with its status: reported with ``repeat``, not sent
8. outcome acknowledged by Kafka     the same: a second outcome, marked as repeat
9. offset committed                  not read again

A delivery whose source, category or campaign is paused at step 3 gives its claim back and goes to the quarantine, with its
bytes; after that its offset may be committed. If the process dies in between, it is there twice, or there and in its topic:
once released, the claim makes one send of both.

An ambiguous delivery is sent again only if it is ``critical`` and carries its own collapse id; all others end
``unknown``. Nothing is sent without a claim; while Redis is away deliveries wait in step 2 and the lane fills and pauses.

To come, and where: the cancel check and quotas before 3, a circuit breaker in place of the gate (it reads the scope of a
classification), delay topics where ``failed`` ends a delivery of scope platform, and dead letters where it is rejected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from connectors.adapters.backoff import backoff
from connectors.adapters.channel import Channel, Classification, Unsendable
from connectors.adapters.claims import Claim, Claims, Found, Held
from connectors.adapters.gate import Gate
from connectors.adapters.journal import Journal
from connectors.adapters.record import Partition, Record
from connectors.adapters.render import render
from connectors.adapters.reports import Reports, retirement
from connectors.settings import AdapterSettings
from messages.codec import DecodeError
from messages.delivery import Delivery, Outcome, OutcomeClass, OutcomeStatus, decode_delivery
from policy.source_guard import SourceRules, pause_of

_LOOK_AGAIN = 750
"""Milliseconds between two looks of a delivery that waits for the gate to open."""

_SETTLED_AFTER = 5_000
"""Milliseconds beyond the request time-out after which a `sending` claim that another worker holds is not being sent."""

_FINAL: dict[OutcomeClass, OutcomeStatus] = {"accepted": "accepted", "recipient_dead": "dead", "rejected": "rejected"}


class _Withdrawn(Exception):
    """The partition was given up while the delivery only waited; its next reader goes on."""


class _ClaimLost(Exception):
    """Another worker took this one for dead and claimed the delivery; what it makes of it is in the claim."""


class _End(msgspec.Struct, frozen=True):
    claim: Claim
    repeat: bool = False


class _Paused(msgspec.Struct, frozen=True):
    scope: str
    name: str


class Worker:
    """Handles the records of one provider's lanes; the times come from ``clock`` (seconds since the epoch).

    ``rules`` gives what is paused at the moment.
    """

    def __init__(
        self,
        channel: Channel[Any, Any],
        claims: Claims,
        reports: Reports,
        settings: AdapterSettings,
        journal: Journal,
        *,
        rules: Callable[[], SourceRules],
        random: Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gate = Gate()
        self._channel = channel
        self._claims = claims
        self._reports = reports
        self._settings = settings
        self._journal = journal
        self._rules = rules
        self._random = random
        self._clock = clock
        self._active: dict[str, asyncio.Future[None]] = {}
        self._account_works = False

    async def handle(self, record: Record) -> bool:
        """Bring one record to its end; False where it was given up and has to be read again."""
        try:
            delivery = self._decode(record)
        except DecodeError as error:
            self._journal.trouble("malformed", topic=record.topic, partition=record.partition, offset=record.offset)
            await self._reports.rejected(record, error)
            return True
        record.name = delivery.id
        while (other := self._active.get(delivery.id)) is not None:
            await other  # The same delivery twice in the topic: the second finds the first one's end in the claim.
        self._active[delivery.id] = mine = asyncio.get_running_loop().create_future()
        try:
            end = await self._settle(delivery, record.assignment)
            if isinstance(end, _Paused):
                await self._reports.held(record, end.scope, end.name)
                self._journal.counts["held"] += 1
            else:
                await self._report(delivery, end)
        except _Withdrawn:
            self._journal.counts["withdrawn"] += 1
            return False
        finally:
            del self._active[delivery.id]
            mine.set_result(None)
        return True

    def _decode(self, record: Record) -> Delivery:
        delivery = decode_delivery(record.value or b"")
        if delivery.provider != self._channel.provider:
            raise DecodeError(f"`{delivery.provider}` on a topic of `{self._channel.provider}`", "$.provider")
        return delivery

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _expired(self, delivery: Delivery, after: int = 0) -> bool:
        return delivery.expires_at is not None and self._now() + after >= delivery.expires_at

    def _repeatable(self, delivery: Delivery) -> bool:
        """Whether sending again what may have been accepted shows once."""
        return self._channel.idempotent or delivery.category_class == "critical"

    def _pause_of(self, delivery: Delivery) -> _Paused | None:
        paused = pause_of(self._rules(), delivery.source, delivery.category, delivery.campaign)
        return None if paused is None else _Paused(*paused)

    async def _settle(self, delivery: Delivery, partition: Partition) -> _End | _Paused:
        """Claim the delivery, whatever the claim was before, and send it if it is to be sent."""
        while not partition.abandoned.is_set():
            try:
                standing = await self._claims.acquire(delivery.id)
                if isinstance(standing, Held):
                    return await self._send(delivery, standing, partition)
                if standing.claim.status is not None:
                    return _End(standing.claim, repeat=True)
                if (left := self._left_to_its_owner(standing)) > 0:
                    await self._pause(partition, left)
                elif standing.claim.state == "sending":
                    return await self._after_a_death(delivery, standing, partition)
                else:
                    held = await self._take(standing, sends_lost=0)
                    return await self._send(delivery, held, partition)
            except _ClaimLost:
                continue
        raise _Withdrawn

    def _left_to_its_owner(self, found: Found) -> int:
        """Milliseconds in which another worker, if it is not dead, may still be sending; then its request has ended."""
        if found.claim.state != "sending" or found.claim.owner == self._claims.owner:
            return 0
        return self._settings.request_timeout + _SETTLED_AFTER - found.age

    async def _after_a_death(self, delivery: Delivery, found: Found, partition: Partition) -> _End | _Paused:
        """It may have been sent, and nobody knows: once more if that shows once, else unknown."""
        self._journal.counts["found_sending"] += 1
        held = await self._take(found, sends_lost=1)
        if self._repeatable(delivery):
            return await self._send(delivery, held, partition)
        return await self._end(held, "unknown", Classification(outcome="ambiguous", error="found_sending", sent=False))

    async def _take(self, found: Found, sends_lost: int) -> Held:
        claim = found.claim
        held = await self._claims.take(found, attempts=claim.attempts + sends_lost, ambiguous=claim.ambiguous + sends_lost)
        if held is None:
            raise _ClaimLost
        return held

    async def _change(self, held: Held, **changes: Any) -> Held:
        changed = await self._claims.change(held, **changes)
        if changed is None:
            self._journal.trouble("claim_lost", delivery=held.delivery)
            raise _ClaimLost
        return changed

    @staticmethod
    async def _pause(partition: Partition, milliseconds: int) -> None:
        if await partition.pause(milliseconds):
            raise _Withdrawn

    async def _send(self, delivery: Delivery, held: Held, partition: Partition) -> _End | _Paused:
        """Send until there is an end: accepted, refused for good, unknown, expired, no attempt left; or it is paused."""
        tries = 0
        while True:
            held, probe = await self._pass_gate(delivery, held, partition)
            try:
                if self._expired(delivery):
                    return await self._end(held, "expired")
                paused = self._pause_of(delivery)
                if paused is not None:
                    await self._change(held, state="released")
                    return paused
                verdict = await self._attempt(delivery)
                refused = self._judge_account(verdict, probe)
            finally:
                if probe:
                    self.gate.leave()
            self._journal.counts[f"answer_{verdict.outcome}"] += 1
            if refused:
                continue
            if verdict.outcome in _FINAL:
                return await self._end(held, _FINAL[verdict.outcome], verdict)
            if verdict.outcome == "ambiguous" and not self._repeatable(delivery):
                return await self._end(held, "unknown", verdict)
            if held.claim.attempts + verdict.sent >= self._settings.attempts:
                return await self._end(held, "failed", verdict)
            tries += 1
            wait = self._backoff(tries, verdict.retry_after)
            if self._expired(delivery, wait):
                return await self._end(held, "expired", verdict)
            held = await self._wait(held, verdict, wait, partition)

    async def _attempt(self, delivery: Delivery) -> Classification:
        """Build, send once and classify; what cannot be built is rejected without being sent."""
        try:
            request = self._channel.build(delivery, render(delivery), self._now())
        except Unsendable as error:
            return Classification(outcome="rejected", error=str(error), sent=False)
        except Exception as error:
            self._journal.bug("build_failed", delivery=delivery.id)
            return Classification(outcome="rejected", error=f"internal: {type(error).__name__}", sent=False)
        answer = await self._channel.send(request)
        try:
            return self._channel.classify(answer)
        except Exception as error:
            self._journal.bug("classify_failed", delivery=delivery.id)
            return Classification(outcome="ambiguous", error=f"internal: {type(error).__name__}")

    def _judge_account(self, verdict: Classification, probe: bool) -> bool:
        """Close or open the gate by an answer; True where it refused the account, whatever the message."""
        if verdict.outcome == "config" and verdict.scope == "account":
            self.gate.refused(probe)
            self._journal.trouble("account_refused", status=verdict.status_code, error=verdict.error)
            return True
        if verdict.outcome == "accepted":
            self._account_works = True
        if probe and verdict.sent and verdict.outcome not in ("transient", "ambiguous"):
            self._journal.say("account_accepted")
            self.gate.accepted()
        return False

    async def _pass_gate(self, delivery: Delivery, held: Held, partition: Partition) -> tuple[Held, bool]:
        """Where the gate is closed, give the claim back and wait until it opens, or it is our turn to try (True)."""
        if not self.gate.closed:
            return held, False
        released = await self._change(held, state="released")
        while self.gate.closed and not self._expired(delivery):
            # First the pause: whoever has just tried would else be the next to try, for ever.
            await self._pause(partition, self._random.randint(_LOOK_AGAIN // 2, _LOOK_AGAIN))
            if self.gate.closed and self.gate.probe():
                try:
                    await self._pause(partition, self._backoff(self.gate.refusals))
                    return await self._change(released, state="sending"), True
                except BaseException:
                    self.gate.leave()
                    raise
        return await self._change(released, state="sending"), False

    def _backoff(self, attempt: int, retry_after: int | None = None) -> int:
        return backoff(
            attempt,
            base=self._settings.backoff_base,
            cap=self._settings.backoff_cap,
            random=self._random,
            retry_after=retry_after,
            retry_after_cap=self._settings.retry_after_cap,
        )

    async def _wait(self, held: Held, verdict: Classification, wait: int, partition: Partition) -> Held:
        """Wait before the next attempt; the claim is given back meanwhile if the last one was certainly not accepted."""
        claim = held.claim
        if verdict.outcome == "ambiguous":
            waiting = await self._change(held, attempts=claim.attempts + 1, ambiguous=claim.ambiguous + 1)
        else:
            waiting = await self._change(held, state="released", attempts=claim.attempts + verdict.sent)
        await self._pause(partition, wait)
        self._journal.counts["retries"] += 1
        return await self._change(waiting, state="sending")

    async def _end(self, held: Held, status: OutcomeStatus, verdict: Classification | None = None) -> _End:
        """Write the end into the claim. What may have been accepted before cannot end as if it had not been."""
        claim = held.claim
        sent = verdict is not None and verdict.sent
        ambiguous = claim.ambiguous + (sent and verdict is not None and verdict.outcome == "ambiguous")
        if ambiguous and status in ("failed", "expired"):
            status = "unknown"
        changes: dict[str, Any] = {
            "state": "accepted" if status == "accepted" else "sending" if status == "unknown" else "released",
            "status": status,
            "attempts": claim.attempts + sent,
            "ambiguous": ambiguous,
        }
        if verdict is not None:
            changes |= {
                "status_code": verdict.status_code,
                "error": verdict.error,
                "provider_message_id": verdict.provider_message_id,
                "retire": status == "dead" and (self._account_works or not verdict.suspect),
            }
        repeat = verdict is not None and verdict.repeat
        try:
            return _End((await self._change(held, **changes)).claim, repeat)
        except _ClaimLost:
            if status != "accepted":
                raise
            return _End(msgspec.structs.replace(claim, **changes), repeat)  # A fact, whoever holds the claim now.

    async def _report(self, delivery: Delivery, end: _End) -> None:
        """Write the outcome, and first the command that retires a dead endpoint."""
        claim = end.claim
        assert claim.status is not None
        if claim.retire:
            await self._reports.change(delivery, retirement(delivery, f"{delivery.provider}:{claim.error}"))
        outcome = Outcome(
            delivery_id=delivery.id,
            tenant=delivery.tenant,
            user=delivery.user,
            event_id=delivery.event_id,
            source=delivery.source,
            category=delivery.category,
            lane=delivery.lane,
            channel=delivery.channel,
            provider=delivery.provider,
            endpoint_id=delivery.endpoint.id,
            status=claim.status,
            at=self._now(),
            attempts=claim.attempts,
            repeat=end.repeat,
            ambiguous=claim.ambiguous,
            status_code=claim.status_code,
            error=claim.error,
            provider_message_id=claim.provider_message_id,
            arrived_at=delivery.arrived_at,
            campaign=delivery.campaign,
            traceparent=delivery.traceparent,
        )
        await self._reports.outcome(outcome)
        self._journal.counts["outcomes"] += 1
        self._journal.counts[f"outcome_{claim.status}"] += 1
        if end.repeat:
            self._journal.counts["repeats"] += 1
