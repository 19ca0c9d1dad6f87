"""``herald up``, ``down`` and ``status``: the local stack."""

from __future__ import annotations

from pathlib import Path

import click
from confluent_kafka import KafkaException
from rich.markup import escape
from rich.table import Table

from cli.session import Session, console, pass_session, print_json
from cli.stack.stack import ProgramStatus, Stack, running_settings
from cli.stack.stack_settings import with_free_ports
from cli.stack.worker_programs import api_key_file
from connectors.conservation import Reader, now_ms
from connectors.settings import Settings

BALANCE_SECONDS = 5.0
"""How long `herald status` reads for the balance."""


@click.command()
@click.option("--only", metavar="NAMES", help="Start these alone: names as in `herald status`, or flink; comma between.")
@click.option("--free-ports", is_flag=True, help="Take ports that are free instead of those in the settings.")
@pass_session
def up(session: Session, only: str | None, free_ports: bool) -> None:
    """Start the local stack and wait until all of it is ready.

    What runs already is left as it is, with the settings that it was started with. On a failure nothing that this call
    started is left running.
    """
    settings = session.file_settings()
    running = running_settings(settings)
    if running is not None:
        settings = running
    elif free_ports:
        settings = with_free_ports(settings)
    stack = Stack(settings, only.split(",") if only else None, say=lambda line: console.print(escape(line)))
    with console.status("starting the stack"):
        stack.up()
    console.print(f"The stack is up. Logs and data: {stack.directory}")
    console.print(f"Its settings, for HERALD_CONFIG: {stack.file}")
    if api_key_file(stack.directory).exists():
        console.print(f"API key of the gateway: {api_key_file(stack.directory)}")


@click.command()
@pass_session
def down(session: Session) -> None:
    """Stop the local stack, the last started first; its data stays."""
    settings = session.file_settings()
    stack = Stack(running_settings(settings) or settings, say=lambda line: console.print(escape(line)))
    with console.status("stopping the stack"):
        stack.down()
    console.print("The stack is down.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@pass_session
def status(session: Session, as_json: bool) -> None:
    """Show every program of the local stack, and whether notifications balance.

    Exit code 1 where nothing runs, or one that was started does not.
    """
    settings = session.file_settings()
    stack = Stack(running_settings(settings) or settings)
    programs = stack.status()
    if as_json:
        print_json(programs)
    else:
        console.print(_table(programs, stack.directory))
        console.print(f"Logs are in {stack.directory}")
        console.print(_conservation(running_settings(settings)))
    states = {program.state for program in programs}
    raise SystemExit("running" not in states or not states <= {"running", "starting", "stopped"})


def _conservation(settings: Settings | None) -> str:
    """The balance in a line, where it can be read at once."""
    if settings is None:
        return "conservation: the stack does not run"
    reader = Reader(settings.kafka)
    try:
        reader.read(BALANCE_SECONDS)
    except (KafkaException, KeyError):
        return "conservation: the topics cannot be read"
    except TimeoutError:
        return f"conservation: not read within {BALANCE_SECONDS:.0f} s; ask `herald conservation`"
    finally:
        reader.close()
    report = reader.ledger.report(now_ms())
    colour = "green" if report.difference == 0 else "red"
    waiting = f"{sum(report.pending.values()):,} waiting"
    return f"conservation: [{colour}]difference {report.difference:,}[/{colour}] of {report.counted:,} counted, {waiting}"


def _table(programs: list[ProgramStatus], directory: Path) -> Table:
    table = Table("program", "state", "pid", "uptime", "url", "log", box=None)
    for program in programs:
        colour = "green" if program.state == "running" else "dim" if program.state == "stopped" else "red"
        table.add_row(
            program.name,
            f"[{colour}]{program.state}[/{colour}]",
            str(program.pid or ""),
            "" if program.uptime is None else _duration(program.uptime),
            program.url,
            str(Path(program.log).relative_to(directory)),
        )
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


COMMANDS = [up, down, status]
