"""A simulation as people read it: figures with bars, what changes, and two chains of decisions side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.simulation.replay import Counted
from cli.simulation.result import Result, Row
from connectors.explain import Story, moment, stories
from connectors.view_store import History
from messages.decision import DecisionRecord

_BAR = 30
"""The longest bar."""

_BESIDE = 80
"""What stands beside a bar; a terminal that has no room for both has no bars."""

CAVEAT = (
    "Both sides are replayed over the same input: the difference is the policies' alone. Neither is what really happened: "
    "profiles are taken as they are now, and nothing is remembered from before the window."
)


class SideLabel(msgspec.Struct, kw_only=True):
    """What a side is: where its set comes from, and the overrides that lie over it."""

    set: str
    version: int
    overrides: list[str]
    currency: str


class Told(msgspec.Struct, kw_only=True):
    """One notification as both sides decide it; ``base`` or ``candidate`` None where only the other has it (a digest).

    ``same``: alike but for the counters that it was judged by.
    """

    same: bool
    base: Story | None
    candidate: Story | None


class Report(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything that is shown, the same for the same input and policies."""

    base: SideLabel
    candidate: SideLabel
    source: str
    read: Counted
    replayed_events: int
    followed_until: str
    notes: list[str]
    result: Result
    explained: list[Told] | None = None


def show(console: Console, report: Report, user: str | None) -> None:
    """Print a report; ``user`` is whose decisions are told."""
    result, read = report.result, report.read
    for name, side in (("base", report.base), ("candidate", report.candidate)):
        over = f", under {', '.join(side.overrides)}" if side.overrides else ""
        console.print(f"[bold]{name:<10}[/bold] {escape(f'{side.set} (version {side.version}{over})')}", soft_wrap=True)
    span = "" if read.first is None or read.last is None else f" from {moment(read.first)} to {moment(read.last)}"
    of_all = f" first of {_number(read.events)}" if report.replayed_events < read.events else ""
    console.print(
        f"[bold]{'input':<10}[/bold] {escape(report.source)}: {_number(report.replayed_events)}{of_all} events and "
        f"{_number(read.commands)} commands{span}, {_number(read.profiles)} profiles",
        soft_wrap=True,
    )
    if read.unreachable:
        console.print(
            f"{'':<10} {_number(read.unreachable)} of them reach nobody: rejected as a whole on both sides", soft_wrap=True
        )
    for note in report.notes:
        console.print(f"[yellow]note[/yellow]       {escape(note)}", soft_wrap=True)
    console.print(f"\n{CAVEAT}\n", style="dim", soft_wrap=True)
    console.print(_headline(result), soft_wrap=True)
    if not result.notifications:
        return
    console.print()
    size = max(0, min(_BAR, console.width - _BESIDE))
    console.print(_figures(result, report, size))
    for title, table in (
        ("Where notifications end otherwise", _ways(result)),
        ("Categories that change most", _categories(result, size)),
        ("Users whose deliveries change most", _users(result)),
    ):
        if table is not None:
            console.print()
            console.print(title, style="bold")
            console.print(table)
    if report.explained is not None and user is not None:
        console.print()
        console.print(f"Decisions on {escape(user)}", style="bold")
        for told in report.explained:
            console.print()
            console.print(_told(told))


def _headline(result: Result) -> str:
    users = result.users
    if not result.notifications:
        return "No notification in the input: nothing to compare."
    if not (result.otherwise or result.later or result.earlier or users["more"] or users["fewer"]):
        return (
            f"[bold]Nothing differs:[/bold] {_number(result.notifications)} notifications to {_number(users['all'])} users "
            "end in the same way, at the same time."
        )
    return (
        f"Of [bold]{_number(result.notifications)}[/bold] notifications [bold]{_number(result.otherwise)}[/bold] would end "
        f"otherwise, {_number(result.later)} later and {_number(result.earlier)} earlier than under the base. "
        f"Of {_number(users['all'])} users [green]{_number(users['more'])}[/green] would get more, "
        f"[red]{_number(users['fewer'])}[/red] fewer, {_number(users['same'])} the same number of deliveries."
    )


def _figures(result: Result, report: Report, size: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("", "base", "candidate", "difference", "%"):
        table.add_column(header, justify="left" if not header else "right", no_wrap=True, overflow="ellipsis")
    table.add_column("", no_wrap=True)
    currency = report.base.currency
    if report.candidate.currency != currency:
        currency = f"{currency} → {report.candidate.currency}"
    sections: list[tuple[str, list[Row], Callable[[float], str]]] = [
        ("How notifications end", result.outcomes, _number),
        ("Waits on the way", result.waits, _number),
        (f"Still waiting at {report.followed_until}", result.pending, _number),
        ("Digests", result.digests, _number),
        ("Deliveries", result.deliveries, _number),
        (f"Cost, {currency}", result.cost, _money),
        ("Arrival to decision", result.latency, _number),
        ("Bounds that bit", result.bounds, _number),
        ("Commands", [result.refused_commands], _number),
    ]
    first = True
    for title, rows, shown in sections:
        if not any(row.base or row.candidate for row in rows):
            continue
        if not first:
            table.add_row()
        first = False
        table.add_row(f"[bold]{escape(title)}[/bold]")
        largest = max(max(row.base, row.candidate) for row in rows)
        for row in rows:
            each, name = shown, row.name
            if name.endswith(", ms"):
                each, name = _time, name.removesuffix(", ms")
            elif rows is result.latency:
                largest = max(row.base, row.candidate)
            barred = rows is result.outcomes or (rows in (result.deliveries, result.cost) and row.name != "all")
            table.add_row(
                f"  {escape(name)}",
                each(row.base),
                each(row.candidate),
                _difference(row, each),
                _percent(row),
                bar(row.base, row.candidate, largest, size) if barred else "",
            )
    return table


def bar(base: float, candidate: float, largest: float, size: int) -> Text:
    """What both sides have in common, and after it what the candidate gains (green) or loses (red); ``largest`` fills it."""
    if not largest or not size:
        return Text()
    common, all_of_it = (round(size * each / largest) for each in (min(base, candidate), max(base, candidate)))
    more = candidate > base
    return Text("█" * common, "blue") + Text(("▓" if more else "░") * (all_of_it - common), "green" if more else "red")


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _money(value: float) -> str:
    return f"{value:,.2f}" if value >= 100 or not value else f"{value:,.4f}"


def _time(value: float) -> str:
    """Milliseconds in their two largest units."""
    left, parts = int(value), []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2]) or "0"


def _difference(row: Row, shown: Callable[[float], str]) -> str:
    if row.difference is None:
        return "-"
    if not row.difference:
        return "="
    return f"{'+' if row.difference > 0 else '-'}{shown(abs(row.difference))}"


def _percent(row: Row) -> str:
    if not row.difference:
        return ""
    if row.percent is None:
        return "new"
    return f"{row.percent:+,.0f} %" if abs(row.percent) > 100 else f"{row.percent:+.1f} %"


def _ways(result: Result) -> Table | None:
    if not result.ways:
        return None
    table = Table("base", "candidate", "notifications", box=None)
    table.columns[2].justify = "right"
    for way in result.ways:
        table.add_row(escape(way.base), escape(way.candidate), _number(way.notifications))
    left = result.otherwise - sum(way.notifications for way in result.ways)
    if left:
        table.add_row("and in other ways", "", _number(left))
    return table


def _categories(result: Result, size: int) -> Table | None:
    if not result.categories:
        return None
    table = Table("category", "end otherwise", "sent", "deliveries", "difference", "", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    largest = max(max(row.deliveries.base, row.deliveries.candidate) for row in result.categories)
    for row in result.categories:
        table.add_row(
            escape(row.category),
            _number(row.changed),
            f"{_number(row.sent.base)} → {_number(row.sent.candidate)}",
            f"{_number(row.deliveries.base)} → {_number(row.deliveries.candidate)}",
            _difference(row.deliveries, _number),
            bar(row.deliveries.base, row.deliveries.candidate, largest, size),
        )
    return table


def _users(result: Result) -> Table | None:
    if not result.most_changed_users:
        return None
    table = Table("user", "base", "candidate", "difference", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in result.most_changed_users:
        table.add_row(
            escape(row.user),
            _number(row.base),
            _number(row.candidate),
            _difference(Row.of("", row.base, row.candidate), _number),
        )
    return table


def told(base: list[DecisionRecord], candidate: list[DecisionRecord], now: int) -> list[Told]:
    """The notifications of a user with their decisions on both sides, as sentences; ``now`` in milliseconds."""
    sides = [_by_id(records, now) for records in (base, candidate)]
    return [
        Told(
            same=(before := sides[0].get(identity)) is not None
            and (after := sides[1].get(identity)) is not None
            and _what(before) == _what(after),
            base=sides[0].get(identity),
            candidate=sides[1].get(identity),
        )
        for identity in sides[0] | sides[1]
    ]


def _by_id(records: list[DecisionRecord], now: int) -> dict[str, Story]:
    found = {}
    for story in stories(History(decisions=records, outcomes={}), now):
        # No delivery of a simulation has an outcome, and all of its decisions are there.
        kept = [_without_view(line) for line in story.sentences if not line.startswith("  Delivery ")]
        found[story.notification_id] = msgspec.structs.replace(story, sentences=kept)
    return found


def _without_view(sentence: str) -> str:
    for phrase in (", as far as the view knows", "as far as the view knows "):
        sentence = sentence.replace(phrase, "")
    return sentence


def _what(story: Story) -> list[object]:
    """What was decided and when, without the counters that it was judged by."""
    return [
        (each.decided_at, each.outcome, each.reason, each.channels, each.release_at, each.deliveries, each.part)
        for each in story.decisions
    ]


def _told(pair: Told) -> RenderableType:
    some = pair.base or pair.candidate
    assert some is not None
    title = Text(some.title, "bold")
    if pair.same:
        return Group(
            title, Text("Alike on both sides; as under the base:", "dim"), *(Text(f"  {line}") for line in some.sentences)
        )
    sides: Iterator[tuple[Literal["base", "candidate"], Story | None]] = iter(
        (("base", pair.base), ("candidate", pair.candidate))
    )
    table = Table(box=None, pad_edge=False, expand=True)
    cells = []
    for name, story in sides:
        table.add_column(name, ratio=1, overflow="fold")
        cells.append(Text("It does not come to be." if story is None else "\n".join(story.sentences)))
    table.add_row(*cells)
    return Group(title, table)
