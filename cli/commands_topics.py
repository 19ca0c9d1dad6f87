"""``herald topics``: create what the registry has, show what differs from it."""

from __future__ import annotations

import click
from msgspec import to_builtins
from rich.table import Table

from cli.session import Session, console, pass_session, print_json
from connectors import topics as administration
from connectors.topics import Difference


@click.group()
def topics() -> None:
    """The topics of the registry on the broker."""


@topics.command()
@pass_session
def apply(session: Session) -> None:
    """Create the topics that are missing. What differs is shown, never changed: exit code 1 then."""
    settings = session.settings().kafka
    for name in administration.create_missing(settings):
        console.print(f"created {name}")
    _show(administration.differences(settings))


@topics.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@pass_session
def diff(session: Session, as_json: bool) -> None:
    """Show what the broker has otherwise than the registry. Exit code 1 where there is a difference."""
    found = administration.differences(session.settings().kafka)
    if as_json:
        print_json(found)
        raise SystemExit(bool(found))
    _show(found)


@topics.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """Show the registry: name, key, value, partitions, cleanup and retention of every topic."""
    registry = administration.wanted(session.settings().kafka)
    if as_json:
        print_json([{**to_builtins(topic), "name": name} for name, topic in registry.items()])
        return
    table = Table("topic", "key", "value", "partitions", "cleanup", "retention", box=None)
    for name, topic in registry.items():
        retention = "" if topic.retention_ms is None else f"{topic.retention_ms // 3_600_000} h"
        table.add_row(name, topic.key, topic.value, str(topic.partitions), topic.cleanup, retention)
    console.print(table)


def _show(found: list[Difference]) -> None:
    if not found:
        console.print("The broker is as the registry says.")
        return
    table = Table("topic", "setting", "registry", "broker", box=None)
    for difference in found:
        table.add_row(difference.topic, difference.setting, difference.wanted, difference.actual or "missing")
    console.print(table)
    console.print("Nothing was changed. Change the registry, or the topic with Kafka's own tools.")
    raise SystemExit(1)


COMMANDS = [topics]
