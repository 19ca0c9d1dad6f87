"""``herald policy``: check policy files, put sets and overrides into force, see what is and was, go back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml
from msgspec import structs
from rich.markup import escape
from rich.table import Table

from cli import commands_simulate
from cli.job_control import JobError
from cli.running_version import RunningVersion
from cli.session import Session, console, errors, pass_session, print_json
from connectors.policy_files import SECTIONS, PolicyFileError, load_policies, read_value
from connectors.policy_log import Difference, Entry, PolicyLogError, Standing, differences, publish, read_standing
from connectors.settings import ROOT, Settings
from messages.codec import DecodeError, encode_json
from messages.policy import POLICY_SET, BudgetExhausted, CategoryPatch, Override, Pause, Policy, decode_override
from policy.overrides import Effective, lie_over

_FIRST = 4
"""How many changes a line of the history names."""


class PolicyGroup(click.Group):
    """A group whose commands end with a plain message where a file or the topic cannot be used."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; exit code 1 with the message."""
        try:
            return super().invoke(context)
        except (PolicyFileError, PolicyLogError) as error:
            raise click.ClickException(str(error)) from None


_directory = click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
_wait = click.option("--wait/--no-wait", default=True, help="Wait until the running job has taken it. Default: wait.")
_timeout = click.option("--timeout", type=click.IntRange(1), default=60, help="Seconds to wait. Default: 60.")


@click.group(cls=PolicyGroup)
def policy() -> None:
    """The policies: files, what is in force, single overrides, history."""


@policy.command()
@_directory
@_json
def validate(directory: Path, as_json: bool) -> None:
    """Check the policy files of DIR and show what they say. An error names file, line and key: exit code 1."""
    document = load_policies(directory)
    if as_json:
        print_json(document)
        return
    table = Table("category", "class", "lane", "channels", "rules", box=None)
    for name, category in document.categories.items():
        rules = [rule for rule in ("throttle", "digest", "opt_in", "budgets") if getattr(category, rule)] + [
            category.choice
        ] * (category.choice != "all")
        table.add_row(escape(name), category.category_class, category.lane, ", ".join(category.channels), ", ".join(rules))
    console.print(table)
    others = ", ".join(f"{len(getattr(document, section))} {section}" for section in SECTIONS[1:])
    console.print(f"Version {document.version}: {len(document.categories)} categories, {others}.", soft_wrap=True)


@policy.command()
@_directory
@click.option("--bump/--no-bump", default=True, help="Take the next free version where the files' is not above. Default.")
@_wait
@_timeout
@pass_session
def apply(session: Session, directory: Path, bump: bool, wait: bool, timeout: int) -> None:
    """Put the set in DIR into force, as a whole and at once; a running job takes it without a restart.

    Where the version in the files is not above all that were there, it goes out under the next free one.
    """
    settings = session.settings()
    document = load_policies(directory)
    packaged = _packaged(settings)
    # Edited in place, the packaged files do not say any more what the job was packaged with.
    edited = directory.resolve() == _packaged_directory(settings).resolve()
    standing = read_standing(settings.kafka, None if edited else packaged)
    highest = max(standing.highest, 0 if packaged is None else packaged.version)
    if standing.force is not None and not _changes(standing.force, document):
        console.print(f"Nothing to do: version {standing.force.version}, which is in force, says the same.")
        return
    if document.version <= highest:
        if not bump:
            raise click.ClickException(
                f"version {document.version} is not above {highest}, which is taken; write `version: {highest + 1}` into "
                "the files, or leave --no-bump out"
            )
        console.print(f"Version {highest} is taken: this goes out as {highest + 1}.")
        document = structs.replace(document, version=highest + 1)
    _put_into_force(settings, standing, document, timeout if wait else 0)


@policy.command()
@click.argument("version", type=click.IntRange(1))
@_wait
@_timeout
@pass_session
def rollback(session: Session, version: int, wait: bool, timeout: int) -> None:
    """Put what VERSION said into force again, under a new version. Overrides stay as they are."""
    settings = session.settings()
    standing = _standing(settings)
    document = _version(standing, version)
    if not _changes(_force(standing), document):
        console.print(f"Nothing to do: version {_force(standing).version}, which is in force, says the same.")
        return
    document = structs.replace(document, version=standing.highest + 1)
    console.print(f"What version {version} said goes out as {document.version}.")
    _put_into_force(settings, standing, document, timeout if wait else 0)


@policy.command()
@click.argument("one", metavar="DIR|VERSION")
@click.argument("other", metavar="[DIR|VERSION]", required=False)
@_json
@pass_session
def diff(session: Session, one: str, other: str | None, as_json: bool) -> None:
    """Show key by key how a set differs from the one in force, or the second from the first. Exit code 1 where it does.

    A directory whose name is a number is written `./7`.
    """
    settings = session.settings()
    standing = _standing(settings)
    old = _force(standing) if other is None else _named(standing, one)
    found = _changes(old, _named(standing, other or one))
    if as_json:
        print_json(_plain_differences(found))
        raise SystemExit(bool(found))
    if other is None and old is standing.in_force.packaged:
        console.print(f"No set was applied yet: this compares with the packaged one in {_packaged_directory(settings)}.")
    _show_differences(found)
    if other is None:
        for name in _effective(standing).patched:
            console.print(f"Over the set lies category/{name}: `herald policy show`.", markup=False)
    raise SystemExit(bool(found))


@policy.command()
@click.option("--limit", type=click.IntRange(1), default=20, help="How many of the latest. Default: 20.")
@_json
@pass_session
def history(session: Session, limit: int, as_json: bool) -> None:
    """Show what was put into force, overridden and removed, when, and what that changed; the latest last."""
    entries = _standing(session.settings()).entries[-limit:]
    if as_json:
        print_json([_plain_entry(entry) for entry in entries])
        return
    if not entries:
        console.print("Nothing was ever put into force: the packaged set is.")
        return
    table = Table("when", "what", "change", box=None)
    for entry in entries:
        what = entry.key if entry.version is None else f"version {entry.version}"
        table.add_row(_moment(entry.at), escape(what), escape(_told(entry)))
    console.print(table)


@policy.command()
@_json
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Show what is in force, as a policy file; what an override changed is marked."""
    standing = _standing(session.settings())
    force, effective = _force(standing), _effective(standing)
    if as_json:
        overrides = {override.key: override for override in effective.overrides}
        print_json({"document": effective.document, "overrides": overrides, "ignored": effective.ignored})
        return
    since = [entry.at for entry in standing.entries if entry.key == POLICY_SET and entry.refused is None]
    origin = "as it is packaged" if force is standing.in_force.packaged else f"since {_moment(since[-1])}"
    _print(f"# version {force.version}, {origin}")
    for override in effective.overrides:
        _print(f"# {override.key}: {_told_override(override)}")
    for key, why in effective.ignored.items():
        _print(f"# {key} IS IGNORED: {why}")
    marks = {found.path: found.old for found in differences(force, effective.document)}
    for line in _lines(msgspec.to_builtins(effective.document), (), marks):
        _print(line)


@policy.group()
def override() -> None:
    """Single overrides: they lie over the set until they are removed, whatever set is in force."""


@override.command(name="set-category")
@click.argument("name")
@click.argument("changes", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.option("--replace", is_flag=True, help="Drop what the category's override said before. Default: add to it.")
@pass_session
def set_category(session: Session, name: str, changes: tuple[str, ...], replace: bool) -> None:
    """Change keys of the category NAME, such as `chat throttle.limit=5 throttle.period=1m`.

    A value is written as in a policy file; `null` takes a key back to its default.
    """
    settings = session.settings()
    standing = _standing(settings)
    earlier = standing.overrides.get(f"category/{name}")
    patch: dict[str, Any] = {}
    if isinstance(earlier, CategoryPatch) and not replace:
        patch = {key: msgspec.json.decode(value) for key, value in earlier.patch.items()}
    for change in changes:
        key, equals, text = change.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"`{change}` is not of the form KEY=VALUE, such as throttle.limit=5")
        try:
            _put(patch, key.split("."), read_value(text))
        except ValueError as error:
            raise click.BadParameter(f"{key}: {error}") from None
    try:
        made = decode_override(encode_json({"kind": "category", "name": name, "patch": patch}))
    except DecodeError as error:
        raise click.ClickException(str(error)) from None
    after = lie_over(_force(standing), standing.overrides | {made.key: made})
    if made.key in after.ignored:
        raise click.ClickException(f"{made.key}: {after.ignored[made.key]}; nothing was changed")
    _write(settings, made.key, encode_json(made))
    _print(f"{made.key} lies over the set: {_told_override(made)}")
    _show_differences(_changes(_effective(standing).document, after.document))
    console.print("A running job takes it within seconds.")


@override.command()
@click.argument("key")
@pass_session
def remove(session: Session, key: str) -> None:
    """Remove the override KEY, such as `category/chat`: the set alone holds again."""
    settings = session.settings()
    standing = _standing(settings)
    if key not in standing.overrides:
        known = ", ".join(sorted(standing.overrides))
        raise click.ClickException(f"there is no override `{key}`; " + (f"there are {known}" if known else "there is none"))
    others = {name: override for name, override in standing.overrides.items() if name != key}
    after = lie_over(_force(standing), others)
    _write(settings, key, None)
    _print(f"{key} is removed.")
    _show_differences(_changes(_effective(standing).document, after.document))
    console.print("A running job takes it within seconds.")


def _packaged_directory(settings: Settings) -> Path:
    return ROOT / settings.job.policies


def _packaged(settings: Settings) -> Policy | None:
    """The packaged set, or None where its files cannot be used: what is on the topic is in force all the same."""
    try:
        return load_policies(_packaged_directory(settings))
    except PolicyFileError as error:
        errors.print(f"The packaged set is left out: {error}", markup=False, soft_wrap=True)
        return None


def _standing(settings: Settings) -> Standing:
    return read_standing(settings.kafka, _packaged(settings))


def _force(standing: Standing) -> Policy:
    if standing.force is None:
        raise click.ClickException("no set is on the topic, and the packaged one cannot be read; apply one")
    return standing.force


def _effective(standing: Standing) -> Effective:
    return lie_over(_force(standing), standing.overrides)


def _version(standing: Standing, version: int) -> Policy:
    if version not in standing.sets:
        known = ", ".join(map(str, sorted(standing.sets)))
        raise click.ClickException(f"version {version} was never in force; there are {known}")
    return standing.sets[version]


def _named(standing: Standing, name: str) -> Policy:
    if name.isdecimal():
        return _version(standing, int(name))
    if not Path(name).is_dir():
        raise click.ClickException(
            f"{name}: no such directory, and no version; name a directory of policy files or a number"
        )
    return load_policies(Path(name))


def _changes(old: Policy, new: Policy) -> list[Difference]:
    """What the sets have otherwise, apart from their versions."""
    return [found for found in differences(old, new) if found.path != ("version",)]


def _put_into_force(settings: Settings, standing: Standing, document: Policy, seconds: int) -> None:
    """Write a set, and wait ``seconds`` for the running job to take it. One record: it is in force as a whole or not."""
    _write(settings, POLICY_SET, encode_json(document))
    console.print(f"Version {document.version} is in force.")
    if standing.force is not None:
        _show_differences(_changes(standing.force, document))
    for key, why in lie_over(document, standing.overrides).ignored.items():
        _print(f"The override {key} does not fit this set and is ignored: {why}")
    if seconds:
        _wait_until_taken(settings, document.version, seconds)


def _write(settings: Settings, key: str, value: bytes | None) -> None:
    """Write a record and read the topic again: somebody else's may have come between."""
    offset = publish(settings.kafka, key, value)
    written = next(entry for entry in _standing(settings).entries if entry.offset == offset)
    if written.refused is not None:
        raise click.ClickException(
            f"{written.refused}: somebody else was faster; nothing was changed, so look and try again"
        )


def _wait_until_taken(settings: Settings, version: int, seconds: int) -> None:
    """Return when every subtask of the running job decides by ``version``; told where none runs."""
    reader = RunningVersion(settings)
    deadline = time.monotonic() + seconds
    with console.status("waiting for the running job"):
        try:
            while (found := reader.read()) is not None:
                if found and min(found) == version:
                    console.print(f"The running job decides by it, in all of its {len(found)} subtasks.")
                    return
                if found and min(found) > version:
                    raise click.ClickException(
                        f"the running job decides by version {min(found)}, which is higher: it was packaged with it, or "
                        "somebody was faster; apply again with a higher version"
                    )
                if time.monotonic() > deadline:
                    raise click.ClickException(
                        f"version {version} is on the topic, but the running job has not said within {seconds} s that it "
                        f"decides by it (it says: {', '.join(map(str, found)) or 'nothing'}); Flink's UI at "
                        f"{settings.job.rest} shows the job"
                    )
                time.sleep(0.5)
        except JobError as error:
            raise click.ClickException(
                f"version {version} is on the topic; whether a job took it is not known: {error}"
            ) from None
    console.print("No job runs; the next one that starts takes it.")


def _put(patch: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        below = patch.get(key)
        patch[key] = below if isinstance(below, dict) else {}
        patch = patch[key]
    patch[path[-1]] = value


def _print(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone().isoformat(" ", "seconds")


def _show_differences(found: list[Difference]) -> None:
    if not found:
        console.print("No difference.")
        return
    table = Table("key", "old", "new", box=None)
    for difference in found:
        table.add_row(escape(".".join(difference.path)), escape(_value(difference.old)), escape(_value(difference.new)))
    console.print(table)


def _value(value: Any) -> str:
    """A value as it stands in a policy file, in a line; nothing for what is not there."""
    if value is None:
        return ""
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)).removesuffix("\n...\n").strip()


def _told(entry: Entry) -> str:
    """What an entry of the history did, in a line."""
    if entry.refused is not None:
        return f"refused: {entry.refused}"
    if entry.override is not None:
        return _told_override(entry.override)
    if entry.removed:
        return "removed" if entry.key != POLICY_SET else "removed: the packaged set is in force again"
    changes = [found for found in entry.differences if found.path != ("version",)]
    told = [
        f"{'.'.join(found.path)} {_value(found.old) or 'nothing'} → {_value(found.new) or 'nothing'}"
        for found in changes[:_FIRST]
    ]
    more = len(changes) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "") or "no change"


def _told_override(override: Override) -> str:
    if isinstance(override, Pause):
        return f"{override.scope} {override.name} is paused"
    if isinstance(override, BudgetExhausted):
        return f"the budget of {override.category} on {override.channel} is spent for {override.day}"
    return ", ".join(f"{key} = {text}" for key, text in _leaves(override)) or "nothing"


def _leaves(override: CategoryPatch) -> list[tuple[str, str]]:
    patch = {key: msgspec.json.decode(value) for key, value in override.patch.items()}

    def leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, below in value.items():
                yield from leaves(below, f"{path}.{key}" if path else key)
        else:
            yield path, "null" if value is None else _value(value)

    return list(leaves(patch, ""))


def _lines(value: dict[str, Any], path: tuple[str, ...], marks: dict[tuple[str, ...], Any]) -> Iterator[str]:
    """A policy file's lines; ``marks`` has for what an override changed the set's own value."""
    indent = "  " * len(path)
    for key, below in value.items():
        here = (*path, key)
        name = _value(key)
        if isinstance(below, dict) and below:
            yield f"{indent}{name}:"
            yield from _lines(below, here, marks)
        else:
            mark = f"  # overridden; the set says {_value(marks[here]) or 'nothing'}" if here in marks else ""
            yield f"{indent}{name}: {_value(below)}{mark}"
    for changed, old in marks.items():
        if changed[:-1] == path and changed[-1] not in value:
            yield f"{indent}# {_value(changed[-1])}: {_value(old)}  # overridden: not in force"


def _plain_differences(found: list[Difference]) -> list[dict[str, Any]]:
    return [{"key": ".".join(difference.path), "old": difference.old, "new": difference.new} for difference in found]


def _plain_entry(entry: Entry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "offset": entry.offset,
        "key": entry.key,
        "version": entry.version,
        "override": entry.override,
        "removed": entry.removed,
        "refused": entry.refused,
        "differences": _plain_differences(entry.differences),
    }


for _command in commands_simulate.COMMANDS:
    policy.add_command(_command)

COMMANDS = [policy]
