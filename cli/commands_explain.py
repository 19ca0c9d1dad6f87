"""``herald explain``: what was decided for a user, why, and what became of the deliveries."""

from __future__ import annotations

import asyncio
import time

import click
import redis.asyncio
from redis.exceptions import RedisError

from cli.session import Session, console, pass_session, print_json
from cli.user_name import UserName
from connectors.explain import Explanation, span, stories
from connectors.settings import Settings
from connectors.view_store import History, ViewReader
from messages.profile import Profile
from messages.words import DEFAULT_TENANT


@click.command()
@click.option("--user", required=True, type=UserName(), help=f"Whose; the tenant is `{DEFAULT_TENANT}` where none is given.")
@click.option("--event", help="Only the notification of the event with this id.")
@click.option("--limit", type=click.IntRange(1), help="Only this many notifications, the latest. Default: all known.")
@click.option("--json", "as_json", is_flag=True, help="Records and sentences as JSON, for programs.")
@pass_session
def explain(session: Session, user: tuple[str, str], event: str | None, limit: int | None, as_json: bool) -> None:
    """Tell what was decided for a user, why, by which policy, and what became of it. Exit code 1 where nothing is known.

    Read from the Redis views: the last decisions of each user, for a limited time.
    """
    settings = session.settings()
    try:
        profile, history = asyncio.run(_read(settings, *user))
    except (RedisError, OSError) as error:
        raise click.ClickException(
            f"Redis at {settings.redis.url} does not answer ({error}); `herald status` shows whether it runs"
        ) from None
    told = stories(history, time.time_ns() // 1_000_000, event=event, limit=limit)
    if not told:
        raise click.ClickException(_nothing(settings, "/".join(user), event, profile))
    if as_json:
        print_json(Explanation(tenant=user[0], user=user[1], notifications=told))
        return
    for number, story in enumerate(told):
        if number:
            console.print()
        console.print(story.title, style="bold", markup=False, soft_wrap=True)
        for sentence in story.sentences:
            console.print(f"  {sentence}", markup=False, soft_wrap=True)


async def _read(settings: Settings, tenant: str, user: str) -> tuple[Profile | None, History]:
    client = redis.asyncio.Redis.from_url(settings.redis.url, socket_timeout=5, socket_connect_timeout=5)
    try:
        reader = ViewReader(client, settings.kafka)
        return await reader.profile(tenant, user), await reader.history(tenant, user)
    finally:
        await client.aclose()


def _nothing(settings: Settings, user: str, event: str | None, profile: Profile | None) -> str:
    views = settings.views
    bounds = f"the view keeps the last {views.decisions_a_user} decisions of a user, for {span(views.ttl)} or more"
    advice = "Decisions show up to a checkpoint after they were taken; `herald status` shows whether `views` runs."
    if event is not None:
        held = "`herald quarantine list` shows whether it is held."
        return f"no decision on event {event} for {user} is known; {bounds}. {advice} {held}"
    if profile is not None:
        return f"no decision for {user} is known, though a profile is (version {profile.version}); {bounds}. {advice}"
    return f"nothing is known of {user}, neither a profile nor a decision; {bounds}. Check the name. {advice}"


COMMANDS = [explain]
