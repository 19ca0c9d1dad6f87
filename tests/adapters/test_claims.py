"""Claims on a real Redis: who holds what, and commands whose answers are lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from connectors.adapters.claims import Claims, Found, Held
from connectors.pipelined import Pipelined, Script
from tests.conftest import RedisServer

PREFIX = "test:"


class Lossy(Pipelined):
    """Executes everything, and loses the answer of what it is told to."""

    lose = 0

    async def execute(self, *command: Any) -> Any:
        answer = await super().execute(*command)
        if self.lose:
            self.lose -= 1
            raise RedisConnectionError("the answer was lost")
        return answer


def claims(client: redis.asyncio.Redis, owner: str, ttl: int = 60_000, through: Pipelined | None = None) -> Claims:
    def away(error: RedisError) -> None:
        troubles.append(error)

    troubles: list[RedisError] = []
    return Claims(through or Pipelined(client), prefix=PREFIX, owner=owner, ttl=ttl, random=Random(1), away=away)


def run(server: RedisServer, scenario: Callable[[redis.asyncio.Redis, str], Awaitable[None]]) -> None:
    async def scene() -> None:
        client = redis.asyncio.Redis.from_url(server.url)
        try:
            async with asyncio.timeout(30):
                await scenario(client, uuid.uuid4().hex)
        finally:
            await client.aclose()

    asyncio.run(scene())


def test_one_of_many_gets_it_and_the_others_find_it(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        workers = [claims(client, f"worker-{number}") for number in range(20)]
        standings = await asyncio.gather(*(each.acquire(identity) for each in workers))
        (held,) = [each for each in standings if isinstance(each, Held)]
        found = [each for each in standings if isinstance(each, Found)]
        assert {each.claim.owner for each in found} == {held.claim.owner}
        assert {each.claim.state for each in found} == {"sending"}
        assert all(0 <= each.age < 10_000 for each in found)

    run(redis_server, scenario)


def test_of_many_who_take_over_one_succeeds(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        await claims(client, "dead").acquire(identity)
        workers = [claims(client, f"worker-{number}") for number in range(20)]
        found = [await each.acquire(identity) for each in workers]
        assert all(isinstance(each, Found) for each in found)
        taken = await asyncio.gather(
            *(
                each.take(claim, attempts=1, ambiguous=1)
                for each, claim in zip(workers, found, strict=True)
                if isinstance(claim, Found)
            )
        )
        (held,) = [each for each in taken if each is not None]
        assert (held.claim.attempts, held.claim.ambiguous, held.claim.state) == (1, 1, "sending")

    run(redis_server, scenario)


def test_who_has_lost_a_claim_cannot_change_it(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        sleeper, other = claims(client, "sleeper"), claims(client, "other")
        held = await sleeper.acquire(identity)
        assert isinstance(held, Held)
        found = await other.acquire(identity)
        assert isinstance(found, Found)
        assert await other.take(found, attempts=1, ambiguous=1) is not None
        assert await sleeper.change(held, state="released") is None
        standing = await sleeper.acquire(identity)
        assert isinstance(standing, Found)
        assert standing.claim.owner == "other"

    run(redis_server, scenario)


def test_a_command_whose_answer_was_lost_is_sent_again_without_harm(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        lossy = Lossy(client)
        mine = claims(client, "me", through=lossy)
        lossy.lose = 2
        held = await mine.acquire(identity)
        assert isinstance(held, Held), "the first try had worked: it is ours"
        lossy.lose = 2
        accepted = await mine.change(held, state="accepted", status="accepted")
        assert accepted is not None
        standing = await claims(client, "next").acquire(identity)
        assert isinstance(standing, Found)
        assert (standing.claim.state, standing.claim.status) == ("accepted", "accepted")

    run(redis_server, scenario)


def test_a_claim_that_redis_forgot_is_written_anew(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        mine = claims(client, "me")
        held = await mine.acquire(identity)
        assert isinstance(held, Held)
        await client.delete(f"{PREFIX}claim:{identity}")
        assert await mine.change(held, state="accepted", status="accepted") is not None
        assert isinstance(await claims(client, "next").acquire(identity), Found)

    run(redis_server, scenario)


def test_claims_live_from_their_last_change_and_can_be_renewed(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        key = f"{PREFIX}claim:{identity}"
        mine = claims(client, "me")
        held = await mine.acquire(identity)
        assert isinstance(held, Held)
        for again in (lambda: mine.renew([identity]), lambda: mine.change(held, state="released")):
            await client.pexpire(key, 5_000)
            await again()
            assert await client.pttl(key) > 50_000

    run(redis_server, scenario)


def test_redis_away_is_told_and_waited_for() -> None:
    async def scenario() -> None:
        told = asyncio.Event()
        client = redis.asyncio.Redis(port=1)
        mine = Claims(Pipelined(client), prefix=PREFIX, owner="me", ttl=60_000, random=Random(1), away=lambda _: told.set())
        waiting = asyncio.ensure_future(mine.acquire("x"))
        await asyncio.wait_for(told.wait(), 10)
        assert not waiting.done()
        waiting.cancel()
        await client.aclose()

    asyncio.run(scenario())


# The pipeline under it.


def test_commands_of_one_turn_share_a_pipeline_and_fail_by_themselves(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        pipelined = Pipelined(client)
        before = (await client.info("stats"))["total_commands_processed"]
        answers = await asyncio.gather(
            pipelined.execute("SET", identity, "text"),
            pipelined.execute("INCR", identity),
            *(pipelined.execute("GET", identity) for _ in range(1_200)),
            return_exceptions=True,
        )
        assert isinstance(answers[1], RedisError)
        assert set(answers[2:]) == {b"text"}
        assert (await client.info("stats"))["total_commands_processed"] - before >= 1_202

    run(redis_server, scenario)


def test_a_script_unknown_to_redis_is_loaded(redis_server: RedisServer) -> None:
    async def scenario(client: redis.asyncio.Redis, identity: str) -> None:
        pipelined = Pipelined(client)
        script = Script("return {KEYS[1], ARGV[1]}")
        for _ in range(2):
            await client.script_flush()
            assert await pipelined.script(script, [identity], [7]) == [identity.encode(), b"7"]
            assert await pipelined.script(script, [identity], [8]) == [identity.encode(), b"8"]

    run(redis_server, scenario)
