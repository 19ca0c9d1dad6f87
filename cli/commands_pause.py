"""``herald pause`` and ``herald resume``: the kill switch for a source, a category or a campaign."""

from __future__ import annotations

from typing import Any, Literal

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from cli.session import Session, console, errors, pass_session, print_json
from connectors.policy_feed import PolicyDocuments, read_documents
from connectors.policy_log import PolicyLogError, publish
from messages.codec import DecodeError, encode_json
from messages.policy import Pause

SCOPES: tuple[Literal["source", "category", "campaign"], ...] = ("source", "category", "campaign")


class PauseGroup(click.Group):
    """A group whose commands end with a plain message where the policies topic cannot be used."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; exit code 1 with the message."""
        try:
            return super().invoke(context)
        except PolicyLogError as error:
            raise click.ClickException(f"{error}. Nothing is certain until `herald pause list` shows it") from None


@click.group(cls=PauseGroup)
def pause() -> None:
    """Hold all of a source, a category or a campaign, from a few seconds on; `herald resume` lets it pass again.

    Its events go to the quarantine whole, and so do deliveries that are queued, until they are released or discarded.
    """


@click.group(cls=PauseGroup)
def resume() -> None:
    """Let a source, a category or a campaign pass again. What is held stays held: see `herald quarantine release`."""


def _pause(scope: Literal["source", "category", "campaign"]) -> click.Command:
    @click.command(name=scope, help=f"Hold all of the {scope} NAME. Paused already, it stays so.")
    @click.argument("name")
    @pass_session
    def command(session: Session, name: str) -> None:
        kafka = session.settings().kafka
        document = _document(scope, name)
        publish(kafka, document.key, encode_json(document))
        console.print(f"The {scope} {escape(name)} is paused.", soft_wrap=True)
        _doubt(read_documents(kafka), scope, name)

    return command


def _resume(scope: Literal["source", "category", "campaign"]) -> click.Command:
    @click.command(name=scope, help=f"Let the {scope} NAME pass again. Exit code 1 where it is not paused.")
    @click.argument("name")
    @pass_session
    def command(session: Session, name: str) -> None:
        kafka = session.settings().kafka
        document = _document(scope, name)
        if document.key not in read_documents(kafka).in_force.overrides:
            raise click.ClickException(f"the {scope} `{name}` is not paused; `herald pause list` shows what is")
        publish(kafka, document.key, None)
        console.print(f"The {scope} {escape(name)} passes again. What is held: herald quarantine list", soft_wrap=True)

    return command


@pause.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs.")
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """Show what is paused."""
    overrides = read_documents(session.settings().kafka).in_force.overrides.values()
    pauses = sorted((each for each in overrides if isinstance(each, Pause)), key=lambda each: each.key)
    if as_json:
        print_json([{"scope": each.scope, "name": each.name} for each in pauses])
    elif not pauses:
        console.print("Nothing is paused.")
    else:
        table = Table("scope", "name", box=None)
        for each in pauses:
            table.add_row(each.scope, escape(each.name))
        console.print(table)


def _document(scope: str, name: str) -> Pause:
    try:
        return msgspec.convert({"kind": "pause", "scope": scope, "name": name}, Pause)
    except msgspec.ValidationError as error:
        raise click.ClickException(f"NAME: {DecodeError.of(error).reason}") from None


def _doubt(documents: PolicyDocuments, scope: str, name: str) -> None:
    """A misspelt category holds nothing, and nothing else would say so."""
    policy = documents.in_force.policy
    if scope == "category" and policy is not None and name not in policy.categories:
        errors.print(f"The policies name no category {escape(name)}: is it spelt right?", soft_wrap=True)


for _scope in SCOPES:
    pause.add_command(_pause(_scope))
    resume.add_command(_resume(_scope))

COMMANDS = [pause, resume]
