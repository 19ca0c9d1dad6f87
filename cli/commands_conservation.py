"""``herald conservation``: is every notification accounted for?"""

from __future__ import annotations

import click
from rich.table import Table

from cli.session import Session, console, pass_session, print_json
from connectors.conservation import Reader, Report, now_ms


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The balance with its cohorts, for programs.")
@pass_session
def conservation(session: Session, as_json: bool) -> None:
    """Balance what arrived against what was decided. Exit code 1 where the difference is not 0.

    While events flow the newest of them are counted and not yet decided: look again a checkpoint later.
    """
    reader = Reader(session.settings().kafka)
    try:
        reader.read()
        report = reader.ledger.report(now_ms())
    finally:
        reader.close()
    if as_json:
        print_json(report)
    else:
        console.print(balance(report))
    raise SystemExit(report.difference != 0)


def balance(report: Report) -> Table:
    """The balance as a table."""
    table = Table("notifications", "number", box=None)
    table.columns[1].justify = "right"
    table.add_row("counted", f"{report.counted:,}")
    for outcome, reasons in sorted(report.outcomes.items()):
        for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
            table.add_row(f"  {outcome}" + ("" if reason == "none" else f": {reason}"), f"{number:,}")
    table.add_row("unreadable events, all in rejected", f"{report.unreadable:,}")
    colour = "green" if report.difference == 0 else "red"
    table.add_row(f"[{colour}]difference[/{colour}]", f"[{colour}]{report.difference:,}[/{colour}]")
    return table


COMMANDS = [conservation]
