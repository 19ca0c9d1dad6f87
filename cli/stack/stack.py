"""The local stack as a whole: start in order, wait until each program is ready, show, stop in reverse order."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import msgspec

from cli.stack.control import Control, ProcessInfo
from cli.stack.flink_programs import flink_programs
from cli.stack.kafka_program import kafka_program
from cli.stack.processes import Record, group_of, stop_group, wait_until_gone
from cli.stack.program import Program, StackError, port_in_use, venv_path
from cli.stack.redis_program import redis_program
from cli.stack.stack_settings import absolute, local_settings, write_settings
from cli.stack.worker_programs import worker_programs
from connectors import topics
from connectors.settings import Settings, load_settings

Say = Callable[[str], None]

_TAIL_LINES = 25

# supervisord's words for a program that is not there and not about to be.
_ENDED = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


class ProgramStatus(msgspec.Struct, frozen=True):
    """One program of the stack; ``uptime`` in seconds, None where it is not running."""

    name: str
    state: str
    pid: int | None
    uptime: float | None
    log: str
    url: str


def settings_file(directory: Path) -> Path:
    """Where a stack leaves the settings that it runs with, for ``HERALD_CONFIG``."""
    return directory / "herald.yaml"


def running_settings(settings: Settings) -> Settings | None:
    """The settings that the stack in the directory of ``settings`` runs with, or None where nothing of it is running."""
    directory = absolute(settings.stack.directory)
    file = settings_file(directory)
    control = Control(directory)
    running = control.record() is not None or any(record.running() for record in control.records())
    return load_settings(file) if running and file.exists() else None


def all_programs(settings: Settings) -> list[Program]:
    """Every program of the stack, in the order of starting; ``settings`` are the stack's own (``local_settings``)."""
    directory = Path(settings.stack.directory)
    return [
        kafka_program(settings, directory),
        redis_program(settings, directory),
        *flink_programs(settings, directory),
        *worker_programs(settings, directory),
    ]


class Stack:
    """The stack in ``settings.stack.directory``. ``programs`` selects by name; None is all.

    ``taskmanagers`` stands for all of them, ``flink`` for these and the JobManager.

    With ``create_topics`` the registry's topics are created as soon as Kafka is ready. ``say`` takes a line of progress.
    """

    def __init__(
        self,
        settings: Settings,
        programs: Sequence[str] | None = None,
        *,
        create_topics: bool = True,
        say: Say = lambda line: None,
    ) -> None:
        self.settings = local_settings(settings)
        self.directory = Path(self.settings.stack.directory)
        self.file = settings_file(self.directory)
        self._programs = all_programs(self.settings)
        self._selected = _select(self._programs, programs)
        _require_distinct_ports(self._selected)
        self._create_topics = create_topics
        self._say = say
        self._control = Control(self.directory)

    def up(self) -> None:
        """Start what is selected and not running, in order, each when the one before it is ready.

        StackError when a program is not ready in time: then all that this call started is stopped again, and the
        message ends with the program's last lines. A call that is killed leaves a stack that ``up`` completes and
        ``down`` stops.
        """
        with self._lock():
            fresh = self._control.record() is None
            started: list[Program] = []
            try:
                if fresh:
                    self._begin()
                self._start(self._selected, started)
            except BaseException:
                if fresh:
                    self._end()
                else:
                    self._stop(started)
                raise

    def down(self) -> None:
        """Stop every program, the last started first, whether or not their supervisor is still alive."""
        if not self.directory.exists():
            return
        with self._lock():
            self._end()

    def status(self) -> list[ProgramStatus]:
        """How every program of the stack is."""
        try:
            supervised = self._control.processes() if self._control.record() is not None else {}
        except StackError:
            supervised = {}
        return [self._status(program, supervised.get(program.name)) for program in self._programs]

    def restart(self, *names: str) -> None:
        """Stop programs and start them again; returns when they are ready. Flink's then run the runtime jar as built."""
        self.stop(*names)
        self.start(*names)

    def stop(self, *names: str) -> None:
        """Stop programs; ``start`` or ``up`` starts them again."""
        with self._lock():
            self._stop(_select(self._programs, names))

    def start(self, *names: str) -> None:
        """Start programs that do not run; returns when they are ready."""
        with self._lock():
            self._start(_select(self._programs, names), [])

    def record(self, name: str) -> Record | None:
        """The record of the program's last start."""
        return self._control.program_record(name)

    def _begin(self) -> None:
        self._stop_leftovers()
        write_settings(self.settings, self.file)
        environment = {"HERALD_CONFIG": str(self.file), "PATH": venv_path(), "PYTHONUNBUFFERED": "1"}
        self._control.write(self._programs, environment)
        self._control.start(environment)
        deadline = time.monotonic() + 20
        while not self._control.answers():
            if time.monotonic() > deadline:
                raise StackError(f"supervisord does not answer\n{_tail(self._control.log('supervisord.output'))}")
            time.sleep(0.05)

    def _start(self, programs: Sequence[Program], started: list[Program]) -> None:
        """Start ``programs`` wave by wave; ``started`` collects those that did not run before."""
        for together in _waves(programs):
            began = time.monotonic()
            for program in together:
                self._launch(program, started)
            for program in together:
                self._wait(program, time.monotonic() + program.start_within)
                self._say(f"{program.name} is ready after {time.monotonic() - began:.1f} s  {program.url}".rstrip())
            if self._create_topics and any(program.name == "kafka" for program in together):
                self._apply_topics()

    def _stop(self, programs: Sequence[Program]) -> None:
        """Stop ``programs`` wave by wave, the last one first."""
        for together in reversed(_waves(programs)):
            deadline = time.monotonic() + max(program.stop_within for program in together) + 20
            for program in together:
                self._control.stop_program(program.name)
            names = {program.name for program in together}
            while stopping := names - {name for name, found in self._control.processes().items() if found.state in _ENDED}:
                if time.monotonic() > deadline:
                    raise StackError(f"{', '.join(sorted(stopping))} cannot be stopped")
                time.sleep(0.05)

    def _launch(self, program: Program, started: list[Program]) -> None:
        if self._control.processes()[program.name].state in ("RUNNING", "STARTING", "BACKOFF"):
            return
        taken = [port for port in program.ports if port_in_use(port)]
        if taken:
            raise StackError(f"{program.name}: port {taken[0]} is in use; set another one, or use --free-ports")
        program.prepare()
        started.append(program)
        self._control.start_program(program.name)

    def _wait(self, program: Program, deadline: float) -> None:
        pids: set[int] = set()
        while True:
            process = self._control.processes()[program.name]
            pids |= {process.pid} - {0}
            if process.state in ("BACKOFF", "EXITED", "FATAL") or len(pids) > 1:
                raise self._failure(program, "it ends instead")
            missing = program.ready()
            if missing is None and process.state == "RUNNING":
                return
            if time.monotonic() > deadline:
                raise self._failure(program, missing or "it ends and is started again")
            time.sleep(0.1)

    def _failure(self, program: Program, reason: str) -> StackError:
        log = self._control.log(program.name)
        return StackError(f"{program.name} did not become ready: {reason}\nThe last lines of {log}:\n{_tail(log)}")

    def _apply_topics(self) -> None:
        created = topics.create_missing(self.settings.kafka)
        if created:
            self._say(f"{len(created)} topics created")
        for difference in topics.differences(self.settings.kafka):
            self._say(
                f"topic {difference.topic}: {difference.setting} is {difference.actual}, the registry says "
                f"{difference.wanted}; it is left as it is"
            )

    def _end(self) -> None:
        if self._control.record() is not None:
            self._shut_supervisor_down()
        self._stop_leftovers()

    def _shut_supervisor_down(self) -> None:
        record = self._control.record()
        if record is None:
            return
        try:
            self._stop(self._programs)
            self._control.shut_down()
        except StackError as error:
            self._say(str(error))
        else:
            wait_until_gone(record, 10)
        # Without an answer, or too slow: whatever it supervised is stopped by its record next.
        stop_group(record, within=0)

    def _stop_leftovers(self) -> None:
        """Stop what runs although no supervisor does, and forget it."""
        order = {program.name: number for number, program in enumerate(self._programs)}
        stop_within = {program.name: program.stop_within for program in self._programs}
        records = self._control.records()
        for record in sorted(records, key=lambda record: order.get(record.name, len(order)), reverse=True):
            if group_of(record):
                self._say(f"{record.name} was left running (process {record.pid}): stopping it")
                stop_group(record, stop_within.get(record.name, 10))
        self._control.forget([record.name for record in records])

    def _status(self, program: Program, supervised: ProcessInfo | None) -> ProgramStatus:
        record = self._control.program_record(program.name)
        alive = record is not None and record.running()
        unsupervised = "running, unsupervised" if alive else "stopped"
        return ProgramStatus(
            name=program.name,
            state=unsupervised if supervised is None else supervised.state.lower(),
            pid=record.pid if record is not None and alive else None,
            uptime=time.time() - record.started if record is not None and alive else None,
            log=str(self._control.log(program.name)),
            url=program.url,
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(f"another `herald up` or `herald down` is at work in {self.directory}") from None
            yield
        finally:
            os.close(descriptor)


def _waves(programs: Sequence[Program]) -> list[list[Program]]:
    ordered = sorted(programs, key=lambda program: program.wave)
    return [list(wave) for _, wave in groupby(ordered, key=lambda program: program.wave)]


def _select(programs: list[Program], names: Sequence[str] | None) -> list[Program]:
    if names is None:
        return programs
    taskmanagers = {program.name for program in programs if program.name.startswith("taskmanager-")}
    groups = {"taskmanagers": taskmanagers, "flink": {"jobmanager", *taskmanagers}}
    wanted: set[str] = set()
    for name in names:
        wanted |= groups.get(name, {name})
    unknown = wanted - {program.name for program in programs}
    if unknown:
        known = ", ".join([*groups, *(program.name for program in programs)])
        raise StackError(f"no program {', '.join(sorted(unknown))} in the stack; there are {known}")
    return [program for program in programs if program.name in wanted]


def _require_distinct_ports(programs: list[Program]) -> None:
    owners: dict[int, str] = {}
    for program in programs:
        for port in program.ports:
            if port in owners:
                raise StackError(f"port {port} is wanted by {owners[port]} and by {program.name}; give one of them another")
            owners[port] = program.name


def _tail(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return "".join(deque(lines, maxlen=_TAIL_LINES)).rstrip() or "(empty)"
    except FileNotFoundError:
        return "(no log)"
