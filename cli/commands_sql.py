"""``herald sql``: Flink's SQL client on the stack, with a table over every topic."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from cli.flink_sql import SqlClient
from cli.session import Session, console, pass_session


@click.command()
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run the statements of this file and end, such as flink-conf/sql/throttle.sql. Default: ask.",
)
@click.option("--follow", is_flag=True, help="Tables go on with what arrives. Default: they end where the topics end now.")
@click.option("--local", is_flag=True, help="Run in the client's own process, not on the cluster.")
@pass_session
def sql(session: Session, file: Path | None, follow: bool, local: bool) -> None:
    """Open Flink's SQL client on the local stack, with the tables and views of flink-conf/sql.

    Where the cluster has no free slot, since the decision job has them all, it runs in the client's own process.
    """
    client = SqlClient(session.settings(), file, follow=follow, local=local)
    client.prepare()
    if client.local and not local:
        console.print("The cluster has no free slot: this runs in the client's own process.")
    raise SystemExit(subprocess.run(client.command(), env=client.environment(), check=False).returncode)  # noqa: S603


COMMANDS = [sql]
