"""Redis commands of many tasks, sent together: what is asked while one pipeline is under way goes out as the next."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError, ResponseError

MAX_BATCH = 500


class Script:
    """A Lua script and its digest."""

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Pipelined:
    """One pipeline at a time on ``client``, without a transaction; each command succeeds or fails by itself.

    A connection error fails every command of its pipeline, and whether they were executed is unknown then: callers
    send only what may be sent again.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._due: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def execute(self, *command: Any) -> Any:
        """Run one command; RedisError where it failed or Redis did not answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._due.append((command, answer))
        if self._sender is None or self._sender.done():
            self._sender = loop.create_task(self._send())
        return await answer

    async def script(self, script: Script, keys: list[str], arguments: list[Any]) -> Any:
        """Run a script, loading it first where this Redis does not know it (anew after a restart)."""
        try:
            return await self.execute("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.execute("EVAL", script.source, len(keys), *keys, *arguments)

    async def _send(self) -> None:
        while self._due:
            batch, self._due = self._due[:MAX_BATCH], self._due[MAX_BATCH:]
            try:
                pipeline = self._client.pipeline(transaction=False)
                for command, _ in batch:
                    pipeline.execute_command(*command)
                results = await pipeline.execute(raise_on_error=False)
            except (RedisError, OSError) as error:
                failure = error if isinstance(error, RedisError) else RedisError(str(error))
                results = [failure] * len(batch)
            except BaseException:
                for _, answer in batch:
                    answer.cancel()
                raise
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():
                    continue
                if isinstance(result, ResponseError | RedisError):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
