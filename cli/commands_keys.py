"""``herald keys``: API keys of the gateway."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cli.session import Session, errors, pass_session
from cli.stack.stack_settings import absolute
from connectors.gateway.keys import ANY_SOURCE, ApiKey, KeysFileError, Scope, hash_key, new_key, read_keys
from messages.codec import DecodeError
from messages.words import DEFAULT_TENANT

SCOPES: tuple[Scope, ...] = ("events", "profiles", "inbox")


@click.group()
def keys() -> None:
    """API keys of the gateway."""


@keys.command()
@click.argument("name")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Default: gateway.keys_file in the settings.")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True)
@click.option("--source", "sources", multiple=True, default=[ANY_SOURCE], help="May be repeated. Default: every source.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), default=SCOPES, help="Default: all of them.")
@pass_session
def add(
    session: Session, name: str, file: Path | None, tenant: str, sources: tuple[str, ...], scopes: tuple[Scope, ...]
) -> None:
    """Add a key called NAME to the file and print it, this once: the file holds its hash only."""
    if file is None:
        file = absolute(session.settings().gateway.keys_file)
    key = new_key()
    try:
        known = list(read_keys(file).values()) if file.exists() else []
        fields = {"name": name, "hash": hash_key(key), "tenant": tenant, "sources": sources, "scopes": scopes}
        entry = msgspec.convert(fields, ApiKey)
    except KeysFileError as error:
        raise click.ClickException(str(error)) from None
    except msgspec.ValidationError as error:
        problem = DecodeError.of(error)
        raise click.ClickException(f"{problem.path.removeprefix('$.')}: {problem.reason}") from None
    if any(other.name == name for other in known):
        raise click.ClickException(f"{file} has a key called {name} already; choose another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    # Anyone may read it: nothing leads from the hash of a long random key to the key.
    scratch = file.with_name(f"{file.name}.tmp")
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode([*known, entry])))
    scratch.replace(file)
    click.echo(key)
    errors.print(f"Added to {file}; the key is not shown again.", soft_wrap=True)


COMMANDS = [keys]
