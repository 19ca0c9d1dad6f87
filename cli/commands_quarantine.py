"""``herald quarantine``: see what is held, let it out, or give it up."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, get_args

import click
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from cli.session import Session, console, errors, pass_session, print_json
from connectors.policy_feed import read_documents
from connectors.policy_log import PolicyLogError
from connectors.quarantine import Held, Quarantine, QuarantineError, Wanted, paused
from messages.policy import duration
from messages.quarantine import HoldReason, HoldStage


class QuarantineGroup(click.Group):
    """A group whose commands end with a plain message where a topic cannot be used."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; exit code 1 with the message."""
        try:
            return super().invoke(context)
        except (QuarantineError, PolicyLogError) as error:
            raise click.ClickException(str(error)) from None


class _Instant(click.ParamType[int]):
    """An instant in milliseconds: RFC 3339, or how long ago."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if re.fullmatch(r"[1-9][0-9]{0,8}(ms|s|m|h|d)", value):
            return time.time_ns() // 1_000_000 - duration(value)
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"`{value}`: write an instant as 2026-01-31T08:00:00Z, or how long ago as 90m, 12h, 3d", param, context
            )
        if instant.tzinfo is None:
            self.fail(f"`{value}` has no offset; write {value}Z for UTC", param, context)
        return int(instant.timestamp() * 1000)


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--source", help="Only of this source."),
            click.option("--category", help="Only of this category."),
            click.option("--campaign", help="Only of this campaign."),
            click.option("--reason", type=click.Choice(get_args(HoldReason)), help="Only what is held for this."),
            click.option("--stage", type=click.Choice(get_args(HoldStage)), help="Only what was held there."),
            click.option("--since", type=_Instant(), help="Held since then: 2026-01-31T08:00:00Z, or 90m, 12h, 3d ago."),
            click.option("--until", type=_Instant(), help="Held before then."),
        )
    ):
        command = option(command)
    return command


_all = click.option("--all", "everything", is_flag=True, help="Everything that is held; needed where no filter is given.")
_limit = click.option("--limit", type=click.IntRange(1), help="At most this many, the oldest first. Default: all.")
_json = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@click.group(cls=QuarantineGroup)
def quarantine() -> None:
    """Events and deliveries that are held: list them, release them, discard them."""


@quarantine.command(name="list")
@_filters
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Show this many, the latest.")
@click.option("--all", "done_too", is_flag=True, help="Also what was released or discarded already.")
@_json
@pass_session
def list_(session: Session, /, limit: int, done_too: bool, as_json: bool, **filters: Any) -> None:
    """Show what is held, the latest last. What the job holds shows at its next checkpoint."""
    held = Quarantine(session.settings().kafka)
    shown: deque[Held] = deque(maxlen=limit)
    totals: Counter[tuple[str, str, str, str]] = Counter()
    for each in held.records(Wanted(**filters)):
        if each.mark is None or done_too:
            shown.append(each)
            totals[each.stage, each.reason, each.source, each.category] += 1
    if as_json:
        print_json([_plain(each) for each in shown])
        return
    if not shown:
        console.print("Nothing is held that fits.")
        return
    console.print(_table(shown, done_too))
    if totals.total() > len(shown):
        console.print(f"{totals.total():,} in all; the latest {len(shown):,} are shown.")
    summary = Table("stage", "reason", "source", "category", "records", box=None)
    summary.columns[-1].justify = "right"
    for names, number in totals.most_common(20):
        summary.add_row(*map(escape, names), f"{number:,}")
    console.print()
    console.print(summary)


@quarantine.command()
@_filters
@_limit
@_all
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="At most this many a second. Default: as fast as it goes."
)
@click.option("--force", is_flag=True, help="Also what is still paused, and so comes straight back.")
@_dry_run
@_json
@pass_session
def release(
    session: Session,
    /,
    limit: int | None,
    everything: bool,
    rate: float | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Put what is held back on the topic that it belongs to, with its bytes and its key, each once.

    The rate of its source does not hold it again; a pause would: while something of the choice is paused nothing is
    released. Events are decided as if they came now, under the same identity: what has expired ends so.

    Each record is noted when the broker has it. Killed between the two, the next call repeats that one record, and its
    repeat is dropped by its identity or its claim.
    """
    kafka = session.settings().kafka
    wanted = _chosen(filters, everything)
    held = Quarantine(kafka)
    number, pauses = paused(held.waiting(wanted, limit), read_documents(kafka).rules())
    if pauses and not force:
        raise click.ClickException(
            f"{pauses.total():,} of {number:,} would come straight back: "
            + ", ".join(f"{name} is paused ({count:,})" for name, count in pauses.most_common())
            + ". Resume that first (herald resume), narrow the choice, or use --force. Nothing was released."
        )
    done, signals = 0, list[int]()
    if not dry_run:
        with Progress(console=errors, transient=True) as progress, _noted_signals() as signals:
            task = progress.add_task("releasing", total=number)
            chosen = held.waiting(wanted, limit)
            done = held.release(chosen, rate, lambda: progress.advance(task), stopping=lambda: signals)
        held.forget()
    _say("released", "release", number, done, dry_run, as_json)
    if signals:
        raise SystemExit(128 + signals[0])


@quarantine.command()
@_filters
@_limit
@_all
@click.option("--yes", is_flag=True, help="Needed: what is discarded is not sent to anybody, and cannot be released.")
@_dry_run
@_json
@pass_session
def discard(
    session: Session, /, limit: int | None, everything: bool, yes: bool, dry_run: bool, as_json: bool, **filters: Any
) -> None:
    """Give up what is held: nobody is told, and no release takes it. Its bytes stay until the topic's retention ends."""
    wanted = _chosen(filters, everything)
    held = Quarantine(session.settings().kafka)
    number = sum(1 for _ in held.waiting(wanted, limit))
    if not (yes or dry_run):
        raise click.UsageError(f"{number:,} would be discarded for good; say --yes, or look at them with `list`")
    done = 0
    if not dry_run:
        done = held.discard(held.waiting(wanted, limit))
        held.forget()
    _say("discarded", "discard", number, done, dry_run, as_json)


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in place of ending: the Kafka client does not bear exceptions in the middle of its calls."""
    noted: list[int] = []
    before = {each: signal.signal(each, lambda number, _: noted.append(number)) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _chosen(filters: dict[str, Any], everything: bool) -> Wanted:
    if everything == any(value is not None for value in filters.values()):
        raise click.UsageError("name what is meant by filters (--source, --category, …), or say --all; not both")
    return Wanted(**filters)


def _say(past: str, verb: str, number: int, done: int, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"matched": number, past: done, "dry_run": dry_run})
    else:
        console.print(f"Would {verb} {number:,}." if dry_run else f"{done:,} {past}.")


def _table(records: deque[Held], done_too: bool) -> Table:
    table = Table("held at", "stage", "reason", "source", "category", "campaign", "id", "for", "place", box=None)
    if done_too:
        table.add_column("became")
    for held in records:
        at = datetime.fromtimestamp(held.held_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        key = "" if held.key is None else held.key.decode(errors="replace")
        texts = [held.stage, held.reason, held.source, held.category, held.campaign, held.event_id, key, held.place]
        became = ["" if held.mark is None else held.mark.status] if done_too else []
        table.add_row(at, *map(escape, texts), *became)
    return table


def _plain(held: Held) -> dict[str, Any]:
    mark = held.mark
    return {
        "place": held.place,
        "held_at": held.held_at,
        "stage": held.stage,
        "reason": held.reason,
        "detail": held.detail,
        "source": held.source,
        "category": held.category,
        "campaign": held.campaign,
        "event_id": held.event_id,
        "topic": held.topic,
        "key": None if held.key is None else held.key.decode(errors="replace"),
        "value": held.value.decode(errors="replace"),
        "became": None if mark is None else mark.status,
        "became_at": None if mark is None else mark.at,
    }


COMMANDS = [quarantine]
