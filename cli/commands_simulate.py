"""``herald policy simulate`` and ``record``: what other policies would make of recorded events."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli.session import Session, console, errors, pass_session, print_json
from cli.simulation.parquet import ParquetMissing, require_pyarrow, write_files
from cli.simulation.replay import SMALL, Plan, Shards, SimulationError, of_interest, replay_all, replay_user, workspace
from cli.simulation.result import result_of
from cli.simulation.view import Report, SideLabel, show, told
from cli.user_name import UserName
from connectors.explain import moment
from connectors.policy_files import PolicyFileError, load_policies
from connectors.policy_log import PolicyLogError, read_standing
from connectors.recording import FileInput, Input, KafkaInput, Recorded, RecordingError, Window, write_recording
from connectors.settings import ROOT, KafkaSettings, Settings
from messages.event import milliseconds
from messages.policy import Override, Pause, Policy, duration
from messages.words import PROVIDERS, Provider, user_key
from policy.overrides import lie_over
from policy.simulation import side_of

IN_FORCE = "in-force"
EVENTS = "events"


class _Failing(click.Command):
    """A command that ends with a plain message where its input cannot be used."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; exit code 1 with the message."""
        try:
            return super().invoke(context)
        except (PolicyFileError, PolicyLogError, RecordingError, SimulationError, ParquetMissing) as error:
            raise click.ClickException(str(error)) from None


class Moment(click.ParamType[int | datetime]):
    """A duration back from the end, such as ``24h``, in milliseconds, or an instant."""

    name = "24h|ISO"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int | datetime:
        """An instant without an offset is UTC."""
        try:
            return duration(str(value))
        except ValueError:
            pass
        try:
            at = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"`{value}` is neither a duration, such as 24h, nor an instant, such as 2026-11-23T08:00", param, context
            )
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


_since = click.option("--since", metavar="24h|ISO", type=Moment(), help="From then on; `24h`: back from the end.")
_until = click.option("--until", metavar="24h|ISO", type=Moment(), help="Before then; `1h`: back from the end.")


@click.command(cls=_Failing)
@click.option(
    "--policies",
    "directory",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The candidate: a directory of policy files.",
)
@click.option(
    "--against",
    metavar="DIR|VERSION|in-force",
    help="The base. Default: what is in force, or the packaged set where a file is replayed and no Kafka answers.",
)
@click.option("--from", "source", metavar="events|FILE|DIR", default=EVENTS, help="The input. Default: the topics.")
@_since
@_until
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Only the first N events of the window.")
@click.option("--horizon", metavar="DURATION", default="7d", help="How long after it what waits is followed. Default: 7d.")
@click.option("--providers", metavar="all|NAME,...", help="Providers that have a worker. Default: the deployment's.")
@click.option("--explain", "user", type=UserName(), help="Tell the decisions on this user side by side.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for decisions.parquet and summary.parquet.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
@click.option(
    "--workers", metavar="N", type=click.IntRange(1), help="Processes. Default: one a core, one alone for little input."
)
@pass_session
def simulate(
    session: Session,
    directory: Path,
    against: str | None,
    source: str,
    since: int | datetime | None,
    until: int | datetime | None,
    limit: int | None,
    horizon: str,
    providers: str | None,
    user: tuple[str, str] | None,
    out: Path | None,
    as_json: bool,
    workers: int | None,
) -> None:
    """Replay recorded events under other policies, and show what would differ. Nothing is sent or changed.

    Events, commands and profiles are read from Kafka, or from a recording (`herald policy record`), and decided by the same
    code as in the job, once under the base and once under the candidate.
    """
    if out is not None:
        require_pyarrow()
    settings = session.settings()
    carried = _providers(settings, providers)
    follow = _horizon(horizon)
    notes: list[str] = []
    base, overrides, base_label = _base(settings, against, source, notes)
    candidate = load_policies(directory)
    if any(isinstance(override, Pause) for override in overrides.values()):
        notes.append("pauses are left out on both sides: what they hold is decided when they are lifted")
    for name, document in (("base", base), ("candidate", candidate)):
        for key, why in lie_over(document, overrides).ignored.items():
            notes.append(f"the override {key} does not fit the {name} and is ignored there: {why}")
    with workspace() as work, _progress() as progress:
        (work / "input").mkdir()
        shards = Shards(work / "input", limit)
        given = _input(settings, source, since, until)
        with progress("reading", given.total) as advance:
            shards.read(given, advance)
        if not shards.counted.profiles:
            notes.append("the input has no profiles: nobody is known but by commands in it")
        parts = work / "decisions"
        parts.mkdir()
        plan = Plan(
            side_of(base, overrides, carried),
            side_of(candidate, overrides, carried),
            shards.cut,
            shards.last + follow,
            None if out is None else str(parts),
        )
        files = shards.files
        with progress("replaying", sum(files.values())) as advance:
            found = replay_all(plan, files, _workers(workers, shards.counted.notifications), advance)
        result = result_of(found, base.defaults.currency == candidate.defaults.currency)
        report = Report(
            base=_label(base_label, base, overrides),
            candidate=_label(str(directory), candidate, overrides),
            source="the topics" if source == EVENTS else source,
            read=shards.counted,
            replayed_events=shards.counted.events if limit is None else min(limit, shards.counted.events),
            followed_until=moment(plan.until),
            notes=notes,
            result=result,
        )
        if user is not None:
            report.explained = _explained(plan, shards, user)
        if out is not None:
            write_files(out, [parts / file.name for file in files], result)
    if as_json:
        print_json(report)
    else:
        show(console, report, None if user is None else user_key(*user))
        if out is not None:
            console.print(f"\nWritten: {out}/decisions.parquet and {out}/summary.parquet", markup=False, soft_wrap=True)


@click.command(cls=_Failing)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@_since
@_until
@pass_session
def record(session: Session, out: Path, since: int | datetime | None, until: int | datetime | None) -> None:
    """Write recorded events and commands, and the profiles of those concerned, to a file that simulate reads.

    It holds personal data, and can be read by its owner alone. The file appears when it is complete.
    """
    given = KafkaInput(session.settings().kafka, _window(since, until, _now()))
    with _progress() as progress, progress("reading", given.total) as advance:

        def records(wanted: Callable[[str], bool]) -> Iterator[Recorded]:
            return given.records(wanted, advance)

        count = write_recording(out, of_interest(records))
    console.print(f"{count:,} records in {out}", markup=False, soft_wrap=True)


def _base(settings: Settings, against: str | None, source: str, notes: list[str]) -> tuple[Policy, dict[str, Override], str]:
    """The base set, what lies over both sides, and what the base is called."""
    if against is not None and against != IN_FORCE and not against.isdecimal():
        if not Path(against).is_dir():
            raise click.BadParameter(
                f"{against}: no such directory; name a directory of policy files, a version, or `{IN_FORCE}`",
                param_hint="--against",
            )
        return load_policies(Path(against)), {}, against
    packaged_directory = ROOT / settings.job.policies
    if against is None and source != EVENTS and not _answers(settings.kafka):
        notes.append(
            f"Kafka at {settings.kafka.bootstrap} does not answer: the base is the packaged set, without overrides; "
            "name another with --against"
        )
        return load_policies(packaged_directory), {}, f"packaged, {settings.job.policies}"
    try:
        packaged = load_policies(packaged_directory)
    except PolicyFileError as error:
        notes.append(f"the packaged set is left out: {error}")
        packaged = None
    standing = read_standing(settings.kafka, packaged)
    if against is not None and against != IN_FORCE:
        version = int(against)
        if version not in standing.sets:
            known = ", ".join(map(str, sorted(standing.sets))) or "none"
            raise click.BadParameter(f"version {version} was never in force; there are: {known}", param_hint="--against")
        return standing.sets[version], standing.overrides, f"version {version}"
    if standing.force is None:
        raise click.ClickException("no set is on the topic, and the packaged one cannot be read; name one with --against")
    if standing.force is packaged:
        notes.append(f"no set was applied yet: the base is the packaged one, {settings.job.policies}")
    return standing.force, standing.overrides, "in force"


def _answers(kafka: KafkaSettings) -> bool:
    """Whether anything listens at one of the brokers' addresses: a client would try for much longer."""
    for address in kafka.bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
                return True
        except (OSError, ValueError):
            continue
    return False


def _label(name: str, document: Policy, overrides: dict[str, Override]) -> SideLabel:
    effective = lie_over(document, overrides)
    return SideLabel(
        set=name,
        version=document.version,
        overrides=[override.key for override in effective.overrides if not isinstance(override, Pause)],
        currency=document.defaults.currency,
    )


def _input(settings: Settings, source: str, since: int | datetime | None, until: int | datetime | None) -> Input:
    if source == EVENTS:
        return KafkaInput(settings.kafka, _window(since, until, _now()))
    path = Path(source)
    if not path.exists():
        raise click.BadParameter(
            f"{source}: no such file or directory; make a recording with `herald policy record`, or write `{EVENTS}`",
            param_hint="--from",
        )
    # Back from the end of the recording, whenever that was.
    asked = isinstance(since, int) or isinstance(until, int)
    end = FileInput(path, Window()).latest() + 1 if asked else 0
    return FileInput(path, _window(since, until, end))


def _window(since: int | datetime | None, until: int | datetime | None, end: int) -> Window:
    def instant(given: int | datetime | None) -> int | None:
        if given is None:
            return None
        return end - given if isinstance(given, int) else milliseconds(given)

    window = Window(instant(since), instant(until))
    if window.since is not None and window.until is not None and window.since >= window.until:
        raise click.BadParameter("it is not before --until: nothing lies between them", param_hint="--since")
    return window


def _providers(settings: Settings, named: str | None) -> frozenset[Provider]:
    names = list(PROVIDERS) if named == "all" else settings.job.providers if named is None else named.split(",")
    known = frozenset(provider for provider in PROVIDERS if provider in names)
    if unknown := set(names) - known:
        raise click.BadParameter(
            f"no provider is called {', '.join(sorted(unknown))}; there are: {', '.join(PROVIDERS)}",
            param_hint="--providers",
        )
    return known


def _horizon(text: str) -> int:
    try:
        return duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--horizon") from None


def _workers(asked: int | None, notifications: int) -> int:
    if asked is not None:
        return asked
    return 1 if notifications <= SMALL else len(os.sched_getaffinity(0))


def _explained(plan: Plan, shards: Shards, user: tuple[str, str]) -> list[Any]:
    found = replay_user(plan, shards, user_key(*user))
    if found is None:
        raise click.ClickException(f"no record of the input is about {user_key(*user)}; check the name, or widen --since")
    base, candidate = ([judged.record for judged in side.decisions] for side in found)
    return told(base, candidate, shards.last)


def _now() -> int:
    return time.time_ns() // 1_000_000


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


@contextmanager
def _progress() -> Iterator[Callable[[str, int], Any]]:
    """Bars for what takes long, on standard error, where that is a terminal."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:

        @contextmanager
        def work(name: str, total: int) -> Iterator[Callable[[int], None]]:
            task = bars.add_task(name, total=total)
            yield lambda done: bars.advance(task, done)

        yield work


COMMANDS = [simulate, record]
"""They belong to the group ``herald policy``."""
