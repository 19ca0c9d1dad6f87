"""The ``herald`` command. Each ``cli.commands_*`` module brings its commands in a list ``COMMANDS``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from cli import (
    commands_conservation,
    commands_demo,
    commands_explain,
    commands_job,
    commands_keys,
    commands_pause,
    commands_policy,
    commands_profile,
    commands_quarantine,
    commands_schemas,
    commands_send,
    commands_sql,
    commands_stack,
    commands_topics,
)
from cli.session import HeraldGroup, Session


@click.group(cls=HeraldGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings file. Default: HERALD_CONFIG, else the running local stack's, else flink-conf/herald.yaml.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the local stack. Default: stack.directory in the settings.",
)
@click.version_option(package_name="herald-notifications", prog_name="herald")
@click.pass_context
def main(context: click.Context, config: Path | None, directory: Path | None) -> None:
    """Herald: real-time notification fan-out."""
    # Ended from outside, a command cleans up as it does after any other error.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    context.obj = Session(config, directory)


for command in (
    *commands_stack.COMMANDS,
    *commands_topics.COMMANDS,
    *commands_job.COMMANDS,
    *commands_keys.COMMANDS,
    *commands_conservation.COMMANDS,
    *commands_demo.COMMANDS,
    *commands_explain.COMMANDS,
    *commands_send.COMMANDS,
    *commands_profile.COMMANDS,
    *commands_pause.COMMANDS,
    *commands_quarantine.COMMANDS,
    *commands_schemas.COMMANDS,
    *commands_policy.COMMANDS,
    *commands_sql.COMMANDS,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
