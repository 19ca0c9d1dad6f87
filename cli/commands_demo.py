"""``herald demo``: the whole system at work on this machine, and an account that adds up."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from cli.demo.cast import CAST, TOLD
from cli.demo.run import DEFECT, REPORT, Demo, DemoReport, Progress
from cli.session import Session, console, pass_session
from policy.reasons import REASONS

_SENT = "it went out, on one channel or on several"
_TOLD = 2
"""How many notifications, the latest, a story has."""


@click.command()
@click.option("--users", type=click.IntRange(100), default=100_000, show_default=True, help="Synthetic users.")
@click.option("--events", type=click.IntRange(100), default=200_000, show_default=True, help="Background events.")
@click.option("--keep", is_flag=True, help="Leave the stack up afterwards.")
@pass_session
def demo(session: Session, users: int, events: int, keep: bool) -> None:
    """Run synthetic users and events through a stack of its own, and account for every notification.

    A cast of users by name meets every rule, so that every reason is seen. Exit code 0 only where each was (and none was a
    defect), conservation is 0, no provider saw a duplicate, and every malformed event is in `rejected`.
    """
    run = Demo(session.file_settings(), users, events, say=lambda line: console.print(escape(line)))
    try:
        with console.status("starting the stack"):
            run.up()
        console.print(f"Flink UI: {run.settings.job.rest}   Logs: {run.stack.directory}")
        with _Screen(run.progress, users, events):
            report = run.run()
        console.print(_outcome_table(report), _provider_table(report))
        _tell_stories(run)
        console.print(_verdict(report))
        console.print(f"The whole report: {REPORT}")
        if keep:
            _explain_what_is_left(run)
        else:
            console.print("`make demo ARGS=--keep` leaves the stack up, to ask it about anybody else.", markup=False)
    finally:
        if not keep:
            with console.status("stopping the stack"):
                run.stack.down()
    raise SystemExit(bool(report.failures))


class _Screen:
    """The live picture of a run."""

    def __init__(self, progress: Progress, users: int, events: int) -> None:
        self._progress = progress
        self._users = users
        self._events = events
        self._bars = Bars(
            TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._sent = self._bars.add_task("profiles", total=users)
        self._decided = self._bars.add_task("decided", total=events)
        self._delivered = self._bars.add_task("delivered", total=None)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2)
        self._last = (time.monotonic(), 0)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def _render(self) -> Any:
        progress = self._progress
        loading = progress.phase == "loading profiles"
        self._bars.update(
            self._sent,
            description="profiles in the log" if loading else "events in the log",
            completed=progress.sent,
            total=self._users if loading else self._events,
        )
        # The job adds digests of its own.
        arrived = max(self._events + progress.codes, progress.decided)
        self._bars.update(self._decided, completed=progress.decided, total=arrived)
        self._bars.update(self._delivered, completed=progress.accepted.total(), total=progress.deliveries or None)
        line = "  ".join(f"{reason} {number:,}" for reason, number in progress.outcomes.most_common(8))
        reasons = f"reasons seen {len(progress.reasons)} of {len(REASONS) - 1}"
        return Group(self._bars, f"[dim]{progress.phase}; one-time codes {progress.codes:,}; {reasons}\n{line}[/dim]")


def _outcome_table(report: DemoReport) -> Table:
    """Every reason: of how many notifications it was the end, how often one waited for it, whom of the cast to ask."""
    table = Table("reason", "ended so", "waited so", "see", "meaning", title="\nDecisions", box=None, title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"
    table.columns[4].overflow = "fold"
    known = [reason for reason in REASONS if reason != DEFECT or reason in report.outcomes]
    for reason in sorted(("sent", *known), key=lambda name: (-report.outcomes.get(name, 0), -_on_the_way(report, name))):
        ended, waited = report.outcomes.get(reason, 0), report.pending_reasons.get(reason, 0)
        meaning = _SENT if reason == "sent" else REASONS[reason]
        if not ended and not waited and reason in report.channel_reasons:
            meaning += f" ({report.channel_reasons[reason]:,} channels)"
        who = next((member.user for member in CAST if member.reasons[0] == reason), "")
        who = who or next((member.user for member in CAST if reason in member.reasons), "")
        table.add_row(reason, f"{ended:,}" if ended else "", f"{waited:,}" if waited else "", who, meaning)
    table.add_row(
        "malformed", f"{report.rejected:,}", "", "", f"events that nobody can read; {report.malformed:,} were sent"
    )
    return table


def _on_the_way(report: DemoReport, reason: str) -> int:
    return report.pending_reasons.get(reason, 0) or report.channel_reasons.get(reason, 0)


def _tell_stories(run: Demo) -> None:
    """What `herald explain` says of some of the cast."""
    story_of = {member.user: member.story for member in CAST}
    for user in TOLD:
        console.print(f"\n[bold]herald explain --user {user}[/bold]   [dim]{escape(story_of[user])}[/dim]")
        for story in run.told(user)[-_TOLD:]:
            console.print(f"  {story.title}", markup=False, soft_wrap=True)
            for sentence in story.sentences:
                console.print(f"    {sentence}", markup=False, soft_wrap=True)


def _provider_table(report: DemoReport) -> Table:
    table = Table("provider", "accepted", "duplicates", title="\nAt the providers", box=None, title_justify="left")
    for name, books in report.providers.items():
        table.add_row(name, f"{books.accepted:,}", f"{books.duplicates:,}")
    for lane, latency in report.latency_ms.items():
        table.add_row(f"{lane}, accepted to provider", f"p50 {latency.p50} ms", f"p99 {latency.p99} ms")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _verdict(report: DemoReport) -> str:
    rate = report.events / report.seconds
    lines = [
        f"\n{report.events + report.urgent_events + report.cast_events:,} events for {report.users + len(CAST):,} users "
        f"in {report.seconds:.0f} s "
        f"({rate:,.0f} a second, every delivery made); conservation difference {report.conservation_difference}."
    ]
    lines += [f"[red]{failure}[/red]" for failure in report.failures] or ["[green]Everything is accounted for.[/green]"]
    return "\n".join(lines)


def _explain_what_is_left(run: Demo) -> None:
    herald = f"herald --directory {run.stack.directory}"
    console.print(
        f"\nThe stack is up:\n  Flink UI  {run.settings.job.rest}\n"
        f"  Gateway   http://127.0.0.1:{run.settings.gateway.port}/openapi.json\n"
        f"Ask it:     {herald} explain --user wanda       (or anybody of the table, or user-1)\n"
        f"            {herald} policy show                (what the demo has changed is marked)\n"
        f"            {herald} quarantine list --all\n"
        f"Stop it:    {herald} down",
        soft_wrap=True,
    )


COMMANDS = [demo]
