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
from messages.policy import Policy
from messages.profile import Profile, ProfileChange

DIRECTORY = ROOT / "docs" / "schemas"

_TYPES: dict[str, Any] = {
    "event": Event,
    "profile-change": ProfileChange,
    "profile": Profile,
    "policy": Policy,
    "delivery": Delivery,
    "outcome": Outcome,
    "decision-record": DecisionRecord,
    "count-record": CountRecord,
}


def documents() -> dict[str, bytes]:
    """The schemas by file name; the same bytes for the same types."""
    return {f"{name}.json": _document(name, kind) for name, kind in _TYPES.items()}


def _document(name: str, kind: Any) -> bytes:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2) + b"\n"


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
