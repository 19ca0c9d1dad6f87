"""``python -m connectors.adapters --provider fcm --lanes urgent,background``: one worker, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import uuid
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
import uvloop
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from connectors.adapters.channel import Channel
from connectors.adapters.claims import Claims, Unclaimed
from connectors.adapters.fcm import Fcm
from connectors.adapters.http2 import Http2Pool, tls_context
from connectors.adapters.inapp import InApp
from connectors.adapters.journal import Journal
from connectors.adapters.lane import Lane
from connectors.adapters.oauth import CredentialsError, load_credentials
from connectors.adapters.reports import Reports
from connectors.adapters.worker import Worker
from connectors.inbox import Inbox
from connectors.pipelined import Pipelined
from connectors.policy_feed import PolicyFeed
from connectors.settings import ROOT, Settings, SettingsError, load_settings
from connectors.view_store import namespace
from messages.topics import deliveries
from messages.words import LANES

_SUMMARY = 10.0
_REDIS_ANSWER = 5.0
_FLUSH = 5.0
_LOOK = 0.05
_RANDOM = Random()  # noqa: S311 (jitter)


def _fcm(settings: Settings) -> Channel[Any, Any]:
    def path(text: str) -> Path:
        return ROOT / text

    fcm = settings.fcm
    credentials = load_credentials(path(fcm.credentials_file))
    tls = tls_context(str(path(fcm.ca_file)) if fcm.ca_file is not None else None)
    token_host = urlsplit(credentials.token_uri)
    timeout = settings.adapters.request_timeout
    return Fcm(
        credentials,
        Http2Pool(fcm.url, tls, request_timeout=timeout),
        Http2Pool(f"https://{token_host.netloc}", tls, connections=1, request_timeout=timeout),
    )


def _redis(settings: Settings) -> redis.asyncio.Redis:
    # No retries of the client's own: whoever asks decides what may be sent again.
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        settings.redis.url,
        socket_timeout=_REDIS_ANSWER,
        socket_connect_timeout=_REDIS_ANSWER,
        retry=Retry(NoBackoff(), 0),
    )
    return client


def _channel(
    provider: str, settings: Settings, client: redis.asyncio.Redis, owner: str, journal: Journal
) -> tuple[Channel[Any, Any], Claims]:
    prefix = namespace(settings.kafka)
    if provider == "inapp":
        inbox = Inbox(client, prefix=prefix, bound=settings.inbox.items, retention=settings.inbox.retention)
        return InApp(inbox), Unclaimed(owner)
    claims = Claims(
        Pipelined(client),
        prefix=prefix,
        owner=owner,
        ttl=settings.adapters.claim_ttl,
        random=_RANDOM,
        away=lambda error: journal.trouble("redis", error=type(error).__name__),
    )
    return _fcm(settings), claims


async def work(provider: str, lanes: list[str], settings: Settings, ready_file: Path | None) -> None:
    """Run one worker until a signal; raises what ended it otherwise."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    journal = Journal(owner)
    client = _redis(settings)
    channel, claims = _channel(provider, settings, client, owner, journal)
    reports = Reports(settings.kafka, journal)
    policies = PolicyFeed(settings.kafka, say=lambda line: journal.trouble("policies", problem=line))
    worker = Worker(channel, claims, reports, settings.adapters, journal, rules=lambda: policies.rules, random=_RANDOM)
    running = [
        Lane(
            lane,
            deliveries(provider, lane),
            f"adapter-{provider}-{lane}",
            kafka=settings.kafka,
            settings=settings.adapters,
            handle=worker.handle,
            journal=journal,
        )
        for lane in lanes
    ]
    lanes_at_work = [loop.create_task(_run(lane, policies)) for lane in running]
    beside = [
        loop.create_task(stopped.wait()),
        loop.create_task(_summaries(running, worker, journal)),
        loop.create_task(_renewals(running, claims, settings.adapters.claim_ttl / 4000)),
    ]
    readiness = loop.create_task(_readiness(running, ready_file, journal))
    try:
        await asyncio.wait([*beside, *lanes_at_work], return_when=asyncio.FIRST_COMPLETED)
        journal.say("stopping", in_hand=_in_hand(running))
    finally:
        for lane in running:
            lane.stop()
        ends = await asyncio.gather(*lanes_at_work, return_exceptions=True)
        for task in (readiness, *beside):
            task.cancel()
        await channel.close()
        await loop.run_in_executor(None, policies.close)
        unacknowledged = await loop.run_in_executor(None, reports.close, _FLUSH)
        await client.aclose()
        journal.summary(unacknowledged=unacknowledged)
    for end in ends:
        if isinstance(end, BaseException):
            raise end


async def _run(lane: Lane, policies: PolicyFeed) -> None:
    """Run a lane, from the moment on at which it is known what is paused: a restart must not send it."""
    while not policies.caught_up.is_set():
        if lane.stopping:
            return
        await asyncio.sleep(_LOOK)
    await lane.run()


def _in_hand(lanes: list[Lane]) -> dict[str, int]:
    return {lane.name: lane.in_hand for lane in lanes}


async def _summaries(lanes: list[Lane], worker: Worker, journal: Journal) -> None:
    while True:
        await asyncio.sleep(_SUMMARY)
        journal.summary(in_hand=_in_hand(lanes), gate_closed=worker.gate.closed)


async def _renewals(lanes: list[Lane], claims: Claims, interval: float) -> None:
    """Keep the claims of what is finished but not committed: without them a crash would send it all again."""
    while True:
        await asyncio.sleep(interval)
        await claims.renew([name for lane in lanes for name in lane.waiting()])


async def _readiness(lanes: list[Lane], ready_file: Path | None, journal: Journal) -> None:
    await asyncio.gather(*(lane.assigned.wait() for lane in lanes))
    journal.say("ready", lanes=[lane.name for lane in lanes])
    if ready_file is not None:
        scratch = ready_file.with_name(f"{ready_file.name}.tmp")
        scratch.write_text(f"{os.getpid()}\n")
        scratch.replace(ready_file)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m connectors.adapters", description="Delivers for one provider.")
    parser.add_argument("--provider", choices=["fcm", "inapp"], required=True)
    parser.add_argument("--lanes", default=",".join(LANES), help="of urgent,background; default both")
    parser.add_argument("--config", type=Path, help="the settings file (default: HERALD_CONFIG, else the packaged one)")
    parser.add_argument("--ready-file", type=Path, help="written once the worker has its partitions")
    options = parser.parse_args()
    lanes = list(dict.fromkeys(options.lanes.split(",")))
    if not set(lanes) <= set(LANES):
        parser.error(f"--lanes: `{options.lanes}` is not a list of {', '.join(LANES)}")
    ready_file: Path | None = options.ready_file
    try:
        uvloop.run(work(options.provider, lanes, load_settings(options.config), ready_file))
    except (SettingsError, CredentialsError) as error:
        sys.exit(str(error))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
