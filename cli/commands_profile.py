"""``herald profile``: one user's profile, and what waits for the user, through the gateway of the running stack."""

from __future__ import annotations

import re
import time
from typing import BinaryIO

import click

from cli.commands_send import SOURCE
from cli.gateway_calls import GatewayCalls, own_user, user_path
from cli.session import Session, console, pass_session, print_json
from cli.user_name import UserName
from messages.profile import ANY
from messages.windows import WEEKDAYS
from messages.words import CHANNELS

_user = click.option("--user", required=True, type=UserName(), help="Whose.")
_TAKEN = "It is in Kafka, and shows in `herald profile show` a moment later."


@click.group()
def profile() -> None:
    """A user's profile: what is known of one, and changes of it."""


@profile.command()
@_user
@pass_session
def show(session: Session, user: tuple[str, str]) -> None:
    """Print a user's profile as JSON, as the view has it."""
    print_json(GatewayCalls(session.settings()).call("GET", user_path(user)))


@profile.command("set")
@_user
@click.argument("file", type=click.File("rb"))
@click.option("--version", type=click.IntRange(0), help="Dropped where a higher or equal one came before.")
@pass_session
def replace(session: Session, user: tuple[str, str], file: BinaryIO, version: int | None) -> None:
    """Replace a user's profile by the JSON document in FILE (`-`: standard input); suppressions stay."""
    headers = {} if version is None else {"If-Version": str(version)}
    GatewayCalls(session.settings()).call("PUT", user_path(user), file.read(), headers=headers)
    console.print(_TAKEN)


@profile.command("quiet-hours")
@_user
@click.argument("windows", nargs=-1)
@click.option("--none", "nothing", is_flag=True, help="No quiet hours.")
@pass_session
def quiet_hours(session: Session, user: tuple[str, str], windows: tuple[str, ...], nothing: bool) -> None:
    """Replace a user's quiet hours by WINDOWS: `22:00-07:00` for every day, or `22:00-07:00 mon,tue`, or several of these.

    Local time; a window that ends before it starts runs overnight, and belongs to the day on which it starts.
    """
    if nothing == bool(windows):
        raise click.UsageError("give windows such as `22:00-07:00 mon,tue`, or --none")
    body = _windows(" ".join(windows).split())
    GatewayCalls(session.settings()).call("PUT", user_path(user, "/quiet-hours"), body)
    console.print(_TAKEN)


def _windows(words: list[str]) -> list[dict[str, object]]:
    """The windows as the gateway takes them, which also judges the times."""
    found: list[dict[str, object]] = []
    for word in words:
        times = re.fullmatch(r"(\d\d:\d\d)-(\d\d:\d\d)", word)
        days = word.lower().split(",")
        if times:
            found.append({"start": times[1], "end": times[2]})
        elif found and "days" not in found[-1] and set(days) <= set(WEEKDAYS):
            found[-1]["days"] = days
        else:
            raise click.UsageError(f"`{word}` is neither a time such as 22:00-07:00 nor, after one, days such as mon,tue")
    return found


@profile.command()
@_user
@click.option("--category", default=ANY, show_default=True, help="`*` stands for all.")
@click.option("--channel", type=click.Choice([*CHANNELS, ANY]), default=ANY, show_default=True, help="`*` stands for all.")
@click.option("--where", help="Where it was given: a page, a form, a shop.")
@click.option("--text-version", help="Which version of the text was agreed to.")
@click.option("--withdraw", is_flag=True, help="Remove the opt-in for exactly this category and channel.")
@pass_session
def consent(
    session: Session,
    user: tuple[str, str],
    category: str,
    channel: str,
    where: str | None,
    text_version: str | None,
    withdraw: bool,
) -> None:
    """Record an opt-in that was given just now, with its proof; or withdraw one."""
    scope = {"category": category, "channel": channel}
    path = user_path(user, "/consents")
    if withdraw:
        GatewayCalls(session.settings()).call("DELETE", path, params=scope)
    elif where is None or text_version is None:
        raise click.UsageError("an opt-in needs its proof: --where and --text-version")
    else:
        proof = {"at": time.time_ns() // 1_000_000, "where": where, "text_version": text_version}
        GatewayCalls(session.settings()).call("POST", path, scope | proof)
    console.print(_TAKEN)


@profile.command()
@_user
@click.option("--event", help="The id of the event.")
@click.option("--key", help="The cancellation key.")
@click.option("--source", default=SOURCE, show_default=True, help="Whose events these are.")
@pass_session
def cancel(session: Session, user: tuple[str, str], event: str | None, key: str | None, source: str) -> None:
    """End what still waits for a user: of one event, or all with a cancellation key."""
    if (event is None) == (key is None):
        raise click.UsageError("give one of --event and --key")
    what = {"event_id": event} if key is None else {"cancellation_key": key}
    body = {"recipients": {"users": [own_user(user)]}, "source": source, **what}
    GatewayCalls(session.settings()).call("POST", "/v1/cancellations", body)
    console.print("The cancellation is in Kafka.")


COMMANDS = [profile]
