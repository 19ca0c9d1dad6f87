"""``herald send``: one event through the gateway of the running stack."""

from __future__ import annotations

import shlex
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec
from rich.markup import escape

from cli.gateway_calls import GatewayCalls, own_user
from cli.session import Session, console, pass_session, print_json
from cli.user_name import UserName
from messages.policy import duration
from messages.words import CHANNELS, LANES, Channel

SOURCE = "herald-cli"


class _Parameter(click.ParamType[tuple[str, Any]]):
    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, Any]:
        name, sign, text = value.partition("=")
        if not (name and sign):
            self.fail(f"`{value}` is no NAME=VALUE", param, context)
        try:
            return name, msgspec.json.decode(text)
        except msgspec.DecodeError:
            return name, text


class Later(click.ParamType[str]):
    """An instant with an offset, or a duration from now; RFC 3339."""

    name = "INSTANT|DURATION"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        """The instant."""
        try:
            return (datetime.now(UTC) + timedelta(milliseconds=duration(value))).isoformat()
        except (ValueError, OverflowError):
            pass
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            self.fail(
                f"`{value}` is neither an instant such as 2026-01-01T08:00:00Z nor a duration such as 10m", param, context
            )
        return at.isoformat()


@click.command()
@click.option("--user", "users", required=True, multiple=True, type=UserName(), help="To whom; may be repeated.")
@click.option("--category", required=True, help="One of the policy's.")
@click.option("--text", help="Literal text, on the channels named by --channel, or on all.")
@click.option("--title", help="Title beside the text.")
@click.option("--template", help="Name of a template, instead of a text.")
@click.option(
    "--param", "params", multiple=True, type=_Parameter(), help="For the template; may be repeated. JSON, else a text."
)
@click.option("--priority", type=click.Choice(LANES), help="The lane; default: background.")
@click.option("--channel", "channels", multiple=True, type=click.Choice(CHANNELS), help="Only on these; may be repeated.")
@click.option("--not-before", type=Later(), help="Not to be sent before that.")
@click.option("--expires-at", type=Later(), help="Not to be sent from then on.")
@click.option("--collapse-key", help="A newer one with the same key replaces what still waits.")
@click.option("--dedup-key", help="The same key again is a duplicate.")
@click.option("--throttle-key", help="Shares a token bucket with others of this key.")
@click.option("--cancellation-key", help="A name under which it can be cancelled.")
@click.option("--campaign", help="The campaign it belongs to.")
@click.option("--tag", "tags", multiple=True, help="A topic that users subscribe to; may be repeated.")
@click.option("--id", "event_id", help="The event's id. Default: a new one.")
@click.option("--source", default=SOURCE, show_default=True, help="The event's source.")
@click.option("--json", "as_json", is_flag=True, help="What was answered as JSON, for programs.")
@pass_session
def send(
    session: Session,
    /,
    users: tuple[tuple[str, str], ...],
    text: str | None,
    title: str | None,
    params: tuple[tuple[str, Any], ...],
    channels: tuple[Channel, ...],
    tags: tuple[str, ...],
    event_id: str | None,
    source: str,
    as_json: bool,
    **fields: str | None,
) -> None:
    """Send an event to users, and say how to see what became of it. The same --id again is a repeat and does nothing."""
    if (text is None) == (fields["template"] is None):
        raise click.UsageError("give one of --text and --template")
    if params and text is not None:
        raise click.UsageError("--param belongs to --template")
    if title is not None and text is None:
        raise click.UsageError("--title belongs to --text")
    names = [own_user(user) for user in users]
    literal = {"body": text} if title is None else {"title": title, "body": text}
    data = {
        "recipients": {"users": names},
        "content": None if text is None else dict.fromkeys(channels or CHANNELS, literal),
        "params": dict(params) or None,
        "channels": channels or None,
        "tags": tags or None,
        **fields,
    }
    event_id = event_id or f"cli-{uuid.uuid4().hex[:12]}"
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": "herald.send",
        "time": datetime.now(UTC).isoformat(),
        "data": {name: value for name, value in data.items() if value is not None},
    }
    result = GatewayCalls(session.settings()).call("POST", "/v1/events", event)
    if as_json:
        print_json({"source": source, **result})
        return
    if result["status"] == "held":
        console.print(
            f"Event {escape(event_id)} of {escape(source)} is held in the quarantine ({result['reason']}): "
            "`herald quarantine` lists and releases what is.",
            soft_wrap=True,
        )
        return
    console.print(f"Event {escape(event_id)} of {escape(source)} is in Kafka. What becomes of it:")
    for tenant, name in users:
        whose = f"{tenant}/{name}" if "/" in name else name
        line = f"herald explain --user {shlex.quote(whose)} --event {shlex.quote(event_id)}"
        console.print(f"  {escape(line)}", soft_wrap=True)


COMMANDS = [send]
