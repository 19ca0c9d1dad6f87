"""``herald schemas``: the JSON Schemas of the messages, as the decoders have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from cli.session import console
from connectors.settings import ROOT
from messages.decision import CountRecord, DecisionRecord
from messages.delivery import Delivery, Outcome
from messages.event import Event
from messages.policy import Override, Policy
from messages.profile import Command, Profile

DIRECTORY = ROOT / "docs" / "schemas"

_TYPES: dict[str, Any] = {
    "event": Event,
    "command": Command,
    "profile": Profile,
    "policy": Policy,
    "policy-override": Override,
    "delivery": Delivery,
    "outcome": Outcome,
    "decision-record": DecisionRecord,
    "count-record": CountRecord,
}


def documents() -> dict[str, bytes]:
    """The schemas by file name; the same bytes for the same types."""
    schemas = {name: msgspec.json.schema(kind) for name, kind in _TYPES.items()}
    schemas["policy-file"] = _policy_file()
    return {f"{name}.json": _document(schema) for name, schema in schemas.items()}


def _policy_file() -> dict[str, Any]:
    """A policy file is a part of the set: nothing that the set needs must be in each of its files."""
    schema = msgspec.json.schema(Policy)
    del schema["$defs"]["Policy"]["required"]
    return schema


def _document(schema: dict[str, Any]) -> bytes:
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return msgspec.json.format(msgspec.json.encode(whole, order="sorted"), indent=2) + b"\n"


def differences(directory: Path) -> list[str]:
    """The files of ``directory`` that are missing, not as the types are, or of no type."""
    wanted = documents()
    present = {file.name: file.read_bytes() for file in directory.glob("*.json")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where a file is not current.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DIRECTORY,
    help="Where the files are. Default: docs/schemas.",
)
def schemas(check: bool, directory: Path) -> None:
    """Export the JSON Schemas of all messages, a file a type."""
    stale = differences(directory)
    if check:
        for name in stale:
            console.print(f"{directory / name} is not current", markup=False, soft_wrap=True)
        if stale:
            raise click.ClickException("run `herald schemas` and commit what changes")
        console.print("All schemas are current.")
        return
    directory.mkdir(parents=True, exist_ok=True)
    wanted = documents()
    for name in stale:
        if name in wanted:
            (directory / name).write_bytes(wanted[name])
            console.print(f"wrote {directory / name}", markup=False, soft_wrap=True)
        else:
            # Not ours to delete: the directory may be anybody's.
            console.print(f"{directory / name} is the schema of no message; remove it", markup=False, soft_wrap=True)


COMMANDS = [schemas]
