"""``herald job``: the decision job on the local stack's Flink cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from cli.job_control import JobControl, package
from cli.session import Session, console, pass_session, print_json


def _control(session: Session) -> JobControl:
    return JobControl(session.settings(), say=lambda line: console.print(escape(line)))


@click.group()
def job() -> None:
    """The notification_fanout job: start, stop with a savepoint, resume, rescale, bootstrap."""


@job.command()
@click.option("--savepoint", metavar="PATH", help="Start from this savepoint instead of from nothing.")
@click.option("--parallelism", type=click.IntRange(1), help="Default: job.parallelism in the settings.")
@pass_session
def start(session: Session, savepoint: str | None, parallelism: int | None) -> None:
    """Start the job. Refused where profiles exist and no savepoint is given: bootstrap it then."""
    with console.status("starting the job"):
        _control(session).start(savepoint, parallelism=parallelism)


@job.command()
@pass_session
def stop(session: Session) -> None:
    """Stop the job with a savepoint, from which `resume` goes on: nothing is lost, nothing is done twice."""
    with console.status("stopping the job with a savepoint"):
        _control(session).stop()


@job.command()
@click.option("--savepoint", metavar="PATH", help="Default: the newest savepoint or retained checkpoint.")
@pass_session
def resume(session: Session, savepoint: str | None) -> None:
    """Start the job from a savepoint, with the code and the packaged policies of now.

    A run that was cancelled, failed or killed wrote no savepoint: its last checkpoint is then the newest, and is taken.
    What came after that is read again from the log; what had left exactly once leaves once.
    """
    control = _control(session)
    chosen = savepoint or control.latest()
    console.print(f"from {escape(chosen)}")
    with console.status("resuming the job"):
        control.start(chosen)


@job.command()
@click.argument("parallelism", type=click.IntRange(1))
@pass_session
def rescale(session: Session, parallelism: int) -> None:
    """Stop the job with a savepoint and start it from there with another parallelism."""
    control = _control(session)
    with console.status(f"rescaling the job to {parallelism}"):
        control.rescale(parallelism)


@job.command()
@pass_session
def bootstrap(session: Session) -> None:
    """Load all profiles from their topic, then start the full job: for a job that has lost its savepoints."""
    control = _control(session)
    with console.status("loading profiles"):
        savepoint = control.bootstrap()
    with console.status("starting the job"):
        control.start(savepoint)


@job.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@pass_session
def status(session: Session, as_json: bool) -> None:
    """Show the runs of the job that the cluster remembers. Exit code 1 where none is running."""
    control = _control(session)
    jobs = control.jobs()
    if as_json:
        print_json(jobs)
    else:
        table = Table("id", "state", "since", box=None)
        for run in jobs:
            since = datetime.fromtimestamp(run["start-time"] / 1000, UTC).astimezone()
            table.add_row(run["jid"], run["state"].lower(), since.isoformat(" ", "seconds"))
        console.print(table)
        console.print(f"Flink UI: {control.url}")
    raise SystemExit(control.running() is None)


@job.command(name="package")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def package_(file: Path) -> None:
    """Write the job's Python code as FILE, the zip that `flink run -pyfs` takes."""
    package(file)
    console.print(f"{file}")


COMMANDS = [job]
