"""The inbox store on a real Redis."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.adapters.inapp import InApp
from connectors.inbox import MAX_PAGE, Inbox, InboxItem
from messages.event import Content
from tests.adapters.harness import delivery
from tests.conftest import RedisServer

NOW = 1_800_000_000_000


def item(identity: str, **more: Any) -> InboxItem:
    return InboxItem(id=identity, category="news", title=identity, **more)


def run(server: RedisServer, scenario: Callable[[Inbox, redis.asyncio.Redis], Awaitable[None]], **options: Any) -> None:
    async def scene() -> None:
        client = redis.asyncio.Redis.from_url(server.url)
        try:
            async with asyncio.timeout(30):
                await scenario(Inbox(client, prefix=f"test-{uuid.uuid4().hex}:", **options), client)
        finally:
            await client.aclose()

    asyncio.run(scene())


async def everything(inbox: Inbox, now: int, limit: int, user: str = "u") -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await inbox.page("t", user, now, limit=limit, before=cursor)
        found += [each.id for each in page.items]
        if page.next is msgspec.UNSET:
            return found
        assert isinstance(page.next, str)
        cursor = page.next


def test_newest_first_in_pages(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        for number in range(25):
            assert await inbox.put("t", "u", item(f"i{number:02}"), NOW + number // 3)  # Some at the same instant.
        expected = [f"i{number:02}" for number in reversed(range(25))]
        for limit in (1, 7, 25, 100):
            assert await everything(inbox, NOW + 100, limit) == expected
        page = await inbox.page("t", "u", NOW + 100, limit=10)
        assert (page.unread, page.items[0].at, page.items[0].title) == (25, NOW + 8, "i24")

    run(redis_server, scenario)


def test_a_page_stands_still_while_items_are_put_and_go(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        for number in range(6):
            await inbox.put("t", "u", item(f"i{number}", expires_at=NOW + 50 if number == 3 else None), NOW + number)
        first = await inbox.page("t", "u", NOW + 10, limit=3)
        assert [each.id for each in first.items] == ["i5", "i4", "i3"]
        await inbox.put("t", "u", item("new"), NOW + 20)
        # The cursor's own item has expired meanwhile.
        second = await inbox.page("t", "u", NOW + 60, limit=3, before=str(first.next))
        assert [each.id for each in second.items] == ["i2", "i1", "i0"]

    run(redis_server, scenario)


def test_putting_again_changes_nothing(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        assert await inbox.put("t", "u", item("a"), NOW)
        await inbox.mark_read("t", "u", NOW + 5, ["a"])
        again = item("a")
        again.title = "other"
        assert not await inbox.put("t", "u", again, NOW + 9)
        (found,) = (await inbox.page("t", "u", NOW + 10)).items
        assert (found.title, found.at, found.read_at) == ("a", NOW, NOW + 5)

    run(redis_server, scenario)


def test_put_at_once_from_many_sides_is_there_once(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        put = await asyncio.gather(*(inbox.put("t", "u", item("a"), NOW + number) for number in range(50)))
        assert put.count(True) == 1
        assert await everything(inbox, NOW, 10) == ["a"]

    run(redis_server, scenario)


def test_read_marks(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        for number in range(4):
            await inbox.put("t", "u", item(f"i{number}"), NOW + number)
        one = await inbox.mark_read("t", "u", NOW + 10, ["i1", "i1", "nobody"])
        assert (one.marked, one.unread) == (1, 3)
        assert (await inbox.mark_read("t", "u", NOW + 11, ["i1"])).marked == 0
        assert (await inbox.mark_read("t", "u", NOW + 11, [])).unread == 3
        rest = await inbox.mark_read("t", "u", NOW + 12)
        assert (rest.marked, rest.unread) == (3, 0)
        page = await inbox.page("t", "u", NOW + 13)
        assert {each.id: each.read_at for each in page.items}["i1"] == NOW + 10
        assert page.unread == 0

    run(redis_server, scenario)


def test_one_item(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        await inbox.put("t", "u", item("a", source="shop", event_id="e", expires_at=NOW + 100), NOW)
        found = await inbox.item("t", "u", NOW + 1, "a")
        assert found is not None
        assert (found.id, found.source, found.event_id, found.at, found.read_at) == ("a", "shop", "e", NOW, None)
        await inbox.mark_read("t", "u", NOW + 5, ["a"])
        read = await inbox.item("t", "u", NOW + 6, "a")
        assert read is not None
        assert read.read_at == NOW + 5
        assert await inbox.item("t", "u", NOW + 6, "b") is None
        assert await inbox.item("t", "other", NOW + 6, "a") is None
        assert await inbox.item("t", "u", NOW + 100, "a") is None

    run(redis_server, scenario)


def test_the_item_of_a_delivery_knows_its_event() -> None:
    made = delivery("inapp", source="shop", event_id="order-17")
    put = InApp.build(made, Content(title="T"), NOW)
    assert (put.item.id, put.item.source, put.item.event_id) == (made.id, "shop", "order-17")


def test_an_item_of_an_older_version_has_no_source(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        user = uuid.uuid4().hex
        await inbox.put("t", user, item("a"), NOW)
        (key,) = await client.keys(f"*{user}*:items")
        await client.hset(key, "a", b'{"id":"a","category":"news","event_id":"e"}')
        found = await inbox.item("t", user, NOW, "a")
        assert found is not None
        assert (found.source, found.event_id) == (None, "e")

    run(redis_server, scenario)


def test_expired_items_are_gone_and_not_taken(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        await inbox.put("t", "u", item("brief", expires_at=NOW + 100), NOW)
        await inbox.put("t", "u", item("kept"), NOW)
        await inbox.mark_read("t", "u", NOW, ["brief"])
        assert not await inbox.put("t", "u", item("late", expires_at=NOW), NOW)
        assert await everything(inbox, NOW + 99, 10) == ["kept", "brief"]
        assert await everything(inbox, NOW + 100, 10) == ["kept"]
        assert (await inbox.page("t", "u", NOW + 100)).unread == 1
        assert await everything(inbox, NOW + 86_400_000, 10) == []

    run(redis_server, scenario, retention=86_400_000)


def test_beyond_the_bound_the_oldest_go(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        for number in range(9):
            await inbox.put("t", "u", item(f"i{number}"), NOW + number)
            await inbox.mark_read("t", "u", NOW, [f"i{number}"])
        assert await everything(inbox, NOW + 20, 10) == ["i8", "i7", "i6"]
        assert (await inbox.page("t", "u", NOW + 20)).unread == 0

    run(redis_server, scenario, bound=3)


def test_nothing_is_kept_for_ever(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        await inbox.put("t", "u", item("a"), NOW)
        await inbox.mark_read("t", "u", NOW)
        keys = [key async for key in client.scan_iter(match=f"{inbox._prefix}*")]
        assert len(keys) == 4
        assert all([0 < await client.pttl(key) <= 60_000 for key in keys])

    run(redis_server, scenario, retention=60_000)


def test_users_do_not_see_each_other(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        users = [("t", "u"), ("t", "u/x"), ("t2", "u"), ("t", "u}"), ("t", "{u"), ("t", "u:items"), ("t", "ü")]
        for tenant, user in users:
            await inbox.put(tenant, user, item(f"{tenant}-{user}"), NOW)
        for tenant, user in users:
            assert [each.id for each in (await inbox.page(tenant, user, NOW)).items] == [f"{tenant}-{user}"]

    run(redis_server, scenario)


@pytest.mark.parametrize("cursor", ["", "x", "12", "12:", ":a", "-1:a", "1e5:a", "\uff11:a", "9" * 30 + ":a"])
def test_a_cursor_of_another_kind_is_refused(redis_server: RedisServer, cursor: str) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        with pytest.raises(ValueError, match="`before` is not a cursor"):
            await inbox.page("t", "u", NOW, before=cursor)

    run(redis_server, scenario)


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
def test_a_limit_out_of_bounds_is_refused(redis_server: RedisServer, limit: int) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        with pytest.raises(ValueError, match="`limit` must be from 1 to 100"):
            await inbox.page("t", "u", NOW, limit=limit)

    run(redis_server, scenario)


def test_more_ids_than_an_inbox_holds_are_refused(redis_server: RedisServer) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        with pytest.raises(ValueError, match="`ids` has 3 entries"):
            await inbox.mark_read("t", "u", NOW, ["a", "b", "c"])

    run(redis_server, scenario, bound=2)


class Model:
    """An inbox from its definition."""

    def __init__(self, bound: int, retention: int) -> None:
        self.bound, self.retention = bound, retention
        self.items: list[tuple[int, int, str, int]] = []  # at, sequence, id, gone at
        self.read: dict[str, int] = {}
        self.sequence = 0

    def prune(self, now: int) -> None:
        self.items = [each for each in self.items if each[3] > now]
        self.read = {identity: at for identity, at in self.read.items() if identity in {each[2] for each in self.items}}

    def put(self, identity: str, now: int, life: int | None) -> bool:
        self.prune(now)
        gone = min(now + self.retention, now + life if life is not None else now + self.retention)
        if identity in {each[2] for each in self.items} or gone <= now:
            return False
        self.items.append((now, self.sequence, identity, gone))
        # Of the same instant, Redis orders by the id.
        self.items.sort(key=lambda each: (each[0], each[2]))
        self.items = self.items[-self.bound :]
        self.prune(now)
        return True


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 30_000))),
        st.tuples(st.just("read"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 20_000), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_agrees_with_the_definition(redis_server: RedisServer, operations: list[tuple[str, int, int | None]]) -> None:
    async def scenario(inbox: Inbox, client: redis.asyncio.Redis) -> None:
        model, now = Model(4, 50_000), NOW
        for kind, number, life in operations:
            identity = f"i{number}"
            if kind == "put":
                expires_at = None if life is None else now + life
                assert await inbox.put("t", "u", item(identity, expires_at=expires_at), now) == model.put(
                    identity, now, life
                )
            elif kind == "read":
                model.prune(now)
                new = identity in {each[2] for each in model.items} and identity not in model.read
                if new:
                    model.read[identity] = now
                assert (await inbox.mark_read("t", "u", now, [identity])).marked == new
            else:
                now += number
            model.prune(now)
            page = await inbox.page("t", "u", now)
            assert [each.id for each in page.items] == [each[2] for each in reversed(model.items)]
            assert page.unread == len(model.items) - len(model.read)

    run(redis_server, scenario, bound=4, retention=50_000)
