"""The in-app inbox: a bounded, expiring list of items a user, in Redis.

Four keys a user, in one cluster slot, changed only by Lua scripts, so that each operation happens whole or not at all::

    {prefix}inbox:{tenant/user}:order   sorted set   item id → when it was put (ms)
    {prefix}inbox:{tenant/user}:items   hash         item id → the item, JSON
    {prefix}inbox:{tenant/user}:expiry  sorted set   item id → when it goes (ms)
    {prefix}inbox:{tenant/user}:read    hash         item id → when it was read (ms)

Every operation first removes what has expired. Items could be put again from Kafka, read marks are nowhere else: where
they matter, Redis needs its append-only file. All operations raise ``redis.RedisError`` when Redis does not answer;
each may be repeated without harm.
"""

from __future__ import annotations

import msgspec
import redis.asyncio
from msgspec import UNSET, UnsetType

from connectors.pipelined import Pipelined, Script
from messages.words import user_key

MAX_PAGE = 100

_PRUNE = """
local order, items, expiry, read = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now = ARGV[1]
local function drop(ids)
  if #ids == 0 then return end
  redis.call('ZREM', order, unpack(ids))
  redis.call('HDEL', items, unpack(ids))
  redis.call('ZREM', expiry, unpack(ids))
  redis.call('HDEL', read, unpack(ids))
end
drop(redis.call('ZRANGEBYSCORE', expiry, '-inf', now))
local function unread() return redis.call('ZCARD', order) - redis.call('HLEN', read) end
"""

_PUT = Script(
    _PRUNE
    + """
local id, item, expires_at, bound, keep = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
if redis.call('HEXISTS', items, id) == 1 or tonumber(expires_at) <= tonumber(now) then return 0 end
redis.call('HSET', items, id, item)
redis.call('ZADD', order, now, id)
redis.call('ZADD', expiry, expires_at, id)
local over = redis.call('ZCARD', order) - bound
if over > 0 then drop(redis.call('ZRANGE', order, 0, over - 1)) end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keep) end
return 1
"""
)

# A cursor is `time:id` of the last item seen. Where that item has gone meanwhile, its time still says where to go on.
_LIST = Script(
    _PRUNE
    + """
local limit, at, id = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local first = 0
if at ~= '' then
  local rank = redis.call('ZREVRANK', order, id)
  if rank then first = rank + 1 else first = redis.call('ZCOUNT', order, at, '+inf') end
end
local ids = redis.call('ZREVRANGE', order, first, first + limit)
local found, more = {}, 0
for index, each in ipairs(ids) do
  if index > limit then more = 1 break end
  found[#found + 1] = redis.call('HGET', items, each)
  found[#found + 1] = redis.call('ZSCORE', order, each)
  found[#found + 1] = redis.call('HGET', read, each) or ''
end
return {unread(), more, found}
"""
)

_ITEM = Script(
    _PRUNE
    + """
local id = ARGV[2]
return {redis.call('HGET', items, id) or '', redis.call('ZSCORE', order, id) or '', redis.call('HGET', read, id) or ''}
"""
)

_MARK = Script(
    _PRUNE
    + """
local ids = {}
if #ARGV > 1 then
  for index = 2, #ARGV do ids[#ids + 1] = ARGV[index] end
else
  ids = redis.call('HKEYS', items)
end
local marked = 0
for _, id in ipairs(ids) do
  if redis.call('HEXISTS', items, id) == 1 then marked = marked + redis.call('HSETNX', read, id, now) end
end
local left = redis.call('PTTL', order)
if left > 0 then redis.call('PEXPIRE', read, left) end
return {marked, unread()}
"""
)


class InboxItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One item. ``id`` is the delivery's; ``at`` when it was put and ``read_at`` when it was read, in milliseconds.

    ``source`` and ``event_id`` are its event's; items of an older version lack the source. ``at`` and ``read_at`` are set by
    the store; what a writer puts there is ignored.
    """

    id: str
    at: int = 0
    category: str
    title: str | None = None
    body: str | None = None
    data: dict[str, str] = {}
    source: str | None = None
    event_id: str | None = None
    expires_at: int | None = None
    read_at: int | None = None


class Page(msgspec.Struct, kw_only=True):
    """A page of items, newest first; ``next`` is the cursor of the page after it, absent on the last one."""

    items: list[InboxItem]
    unread: int
    next: str | UnsetType = UNSET


class Marked(msgspec.Struct, kw_only=True):
    """How many items were marked just now, and how many are unread after it."""

    marked: int
    unread: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(InboxItem).decode


def _item(raw: bytes | str, score: bytes | str, read_at: bytes | str) -> InboxItem:
    """An item as it is stored, with when it was put and read."""
    item = _decode(raw)
    item.at = int(score)
    item.read_at = int(read_at) if read_at else None
    return item


def _parse_cursor(cursor: str | None) -> tuple[str, str]:
    if cursor is None:
        return "", ""
    at, colon, identity = cursor.partition(":")
    if not (colon and identity and at.isascii() and at.isdigit() and len(at) <= 16):
        raise ValueError("`before` is not a cursor of this inbox; use the `next` of a page")
    return at, identity


class Inbox:
    """Inboxes on one Redis; ``bound`` items a user at most, each kept ``retention`` milliseconds unless it expires sooner.

    ``client`` may decode responses or not. Times come from the caller.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        prefix: str = "herald:",
        bound: int = 500,
        retention: int = 30 * 86_400_000,
    ) -> None:
        self._prefix = prefix
        self._bound = bound
        self._retention = retention
        self._redis = Pipelined(client)

    def _keys(self, tenant: str, user: str) -> list[str]:
        # Braces are Redis Cluster's hash tag: the four keys share a slot.
        base = f"{self._prefix}inbox:{{{user_key(tenant, user)}}}"
        return [f"{base}:order", f"{base}:items", f"{base}:expiry", f"{base}:read"]

    async def put(self, tenant: str, user: str, item: InboxItem, now: int) -> bool:
        """Put an item; False where an item with its id is there already, or it has expired: then nothing changes.

        Beyond the bound the oldest items go. If the process dies before the answer, putting again is harmless.
        """
        expires_at = now + self._retention if item.expires_at is None else min(item.expires_at, now + self._retention)
        arguments = [now, item.id, _encode(item), expires_at, self._bound, self._retention]
        return bool(await self._redis.script(_PUT, self._keys(tenant, user), arguments))

    async def page(self, tenant: str, user: str, now: int, *, limit: int = 20, before: str | None = None) -> Page:
        """Read up to ``limit`` (1 to MAX_PAGE) items, newest first, older than the cursor ``before``.

        ValueError names a limit or cursor that cannot be used. Items put meanwhile do not move a page.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"`limit` must be from 1 to {MAX_PAGE}")
        at, identity = _parse_cursor(before)
        unread, more, found = await self._redis.script(_LIST, self._keys(tenant, user), [now, limit, at, identity])
        items = [_item(*parts) for parts in zip(found[::3], found[1::3], found[2::3], strict=True)]
        following = f"{items[-1].at}:{items[-1].id}" if more else UNSET
        return Page(items=items, unread=unread, next=following)

    async def item(self, tenant: str, user: str, now: int, id: str) -> InboxItem | None:
        """Read one item, or None where there is none with this id, or it has expired."""
        raw, score, read_at = await self._redis.script(_ITEM, self._keys(tenant, user), [now, id])
        return _item(raw, score, read_at) if raw else None

    async def mark_read(self, tenant: str, user: str, now: int, ids: list[str] | None = None) -> Marked:
        """Mark items as read, all of them where ``ids`` is None; unknown ids and items read before are passed over.

        ValueError for more ids than an inbox can hold. The first reading's time stays.
        """
        if ids is not None and len(ids) > self._bound:
            raise ValueError(f"`ids` has {len(ids)} entries; an inbox holds {self._bound} at most")
        if ids is not None and not ids:
            return Marked(marked=0, unread=(await self.page(tenant, user, now, limit=1)).unread)
        marked, unread = await self._redis.script(_MARK, self._keys(tenant, user), [now, *(ids or [])])
        return Marked(marked=marked, unread=unread)
