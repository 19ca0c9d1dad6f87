"""Process control by supervisord: its configuration, its start and its answers over a unix socket."""

from __future__ import annotations

import configparser
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec
from supervisor.xmlrpc import Faults

from cli.stack.launch import Specification
from cli.stack.processes import Record, read_record
from cli.stack.program import Program, StackError
from connectors.settings import ROOT

# The operating system's limit is 108 with the closing NUL; supervisord binds to the name with its pid appended first.
_LONGEST_SOCKET = 108 - 1 - len(".4194304")

# Seconds.
_ANSWER_WITHIN = 30

_LOG_BYTES = "20MB"
_LOG_BACKUPS = 3


class ProcessInfo(msgspec.Struct, frozen=True):
    """What supervisord says of a program; ``state`` is its word (RUNNING, STOPPED, BACKOFF, FATAL, …)."""

    name: str
    state: str
    pid: int
    description: str


class Control:
    """The supervisord of the stack in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._run = directory / "run"
        self._logs = directory / "logs"
        self._socket = self._run / "supervisor.sock"
        self._record = self._run / "supervisord.pid"
        if len(str(self._socket)) > _LONGEST_SOCKET:
            raise StackError(
                f"{directory}: the path is too long for a unix socket; choose a directory of at most "
                f"{_LONGEST_SOCKET - len('/run/supervisor.sock')} characters"
            )

    def record(self) -> Record | None:
        """supervisord's own record, or None where it is not running."""
        record = read_record(self._record)
        return record if record is not None and record.running() else None

    def program_record(self, name: str) -> Record | None:
        """The record of the program's last start, alive or not."""
        return read_record(self._run / f"{name}.pid")

    def records(self) -> list[Record]:
        """The records of all programs that were started and not forgotten, alive or not."""
        files = [file for file in self._run.glob("*.pid") if file != self._record]
        return [record for file in files if (record := read_record(file)) is not None]

    def forget(self, names: Sequence[str]) -> None:
        """Remove the records, once what they name is gone."""
        for name in (*names, "supervisord"):
            (self._run / f"{name}.pid").unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        """The file that takes the program's output."""
        return self._logs / f"{name}.log"

    def write(self, programs: Sequence[Program], environment: dict[str, str]) -> None:
        """Write supervisord's configuration and a launch specification for each program."""
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        configuration = configparser.RawConfigParser()
        configuration["unix_http_server"] = {"file": _escaped(self._socket), "chmod": "0700"}
        configuration["rpcinterface:supervisor"] = {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }
        configuration["supervisord"] = {
            "logfile": _escaped(self.log("supervisord")),
            "logfile_maxbytes": _LOG_BYTES,
            "logfile_backups": str(_LOG_BACKUPS),
            "pidfile": _escaped(self._run / "supervisord.number"),
            "childlogdir": _escaped(self._logs),
            "directory": _escaped(ROOT),
            "nocleanup": "true",
        }
        for priority, program in enumerate(programs, start=1):
            self._specify(program, environment)
            configuration[f"program:{program.name}"] = {
                "command": self._launch(program.name),
                # Stopping goes from the highest to the lowest, each after the one before it has ended.
                "priority": str(priority),
                "autostart": "false",
                "autorestart": "true",
                "startsecs": "1",
                # A worker that cannot start while its broker is away is tried again for an hour, ever more slowly.
                "startretries": "100",
                "stopwaitsecs": str(int(program.stop_within)),
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": _escaped(self.log(program.name)),
                "stdout_logfile_maxbytes": _LOG_BYTES,
                "stdout_logfile_backups": str(_LOG_BACKUPS),
            }
        with (self._run / "supervisord.conf").open("w", encoding="utf-8") as file:
            configuration.write(file)

    def _specify(self, program: Program, environment: dict[str, str]) -> None:
        specification = Specification(
            name=program.name,
            command=list(program.command),
            environment={**environment, **program.environment},
            directory=str(ROOT),
            record=str(self._run / f"{program.name}.pid"),
            ready_file=None if program.ready_file is None else str(program.ready_file),
        )
        (self._run / f"{program.name}.json").write_bytes(msgspec.json.encode(specification))

    def _launch(self, name: str) -> str:
        return " ".join(
            f'"{_escaped(word)}"' for word in (sys.executable, "-m", "cli.stack.launch", self._run / f"{name}.json")
        )

    def start(self, environment: dict[str, str]) -> None:
        """Start supervisord, detached; whether it answers is told by ``answers``."""
        specification = Specification(
            name="supervisord",
            command=[sys.executable, "-m", "supervisor.supervisord", "-n", "-s", "-c", str(self._run / "supervisord.conf")],
            environment=environment,
            directory=str(ROOT),
            record=str(self._record),
            log=str(self.log("supervisord.output")),
        )
        file = self._run / "supervisord.json"
        file.write_bytes(msgspec.json.encode(specification))
        command = [sys.executable, "-m", "cli.stack.launch", "--detach", str(file)]
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - the stack's own command

    def answers(self) -> bool:
        """Whether supervisord is there to take commands."""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except StackError:
            return False

    def start_program(self, name: str) -> None:
        """Start a program; one that runs already is left alone."""
        self._call("startProcess", name, False, harmless=Faults.ALREADY_STARTED)

    def stop_program(self, name: str) -> None:
        """Have a program stopped, or killed when that takes longer than it may; returns at once."""
        self._call("stopProcess", name, False, harmless=Faults.NOT_RUNNING)

    def shut_down(self) -> None:
        """Have supervisord stop what still runs, the last started first, and end; returns at once."""
        self._call("shutdown")

    def processes(self) -> dict[str, ProcessInfo]:
        """Every program by name, as supervisord sees it; StackError where it does not answer."""
        return {
            info["name"]: ProcessInfo(
                name=info["name"], state=info["statename"], pid=info["pid"], description=info["description"]
            )
            for info in self._call("getAllProcessInfo")
        }

    def _call(self, method: str, *arguments: object, harmless: int | None = None) -> Any:
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(self._socket)) as server:
                return getattr(server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == harmless:
                return None
            raise StackError(f"supervisord refuses {method} {arguments}: {fault.faultString}") from None
        except (OSError, HTTPException, xmlrpc.client.ProtocolError) as error:
            raise StackError(
                f"supervisord does not answer on {self._socket} ({error}); `herald down` stops what is left"
            ) from None


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def make_connection(self, host: object) -> HTTPConnection:
        return _UnixConnection(self._file)


class _UnixConnection(HTTPConnection):
    def __init__(self, file: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_WITHIN)
        self._file = file

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_WITHIN)
        self.sock.connect(str(self._file))


def _escaped(value: object) -> str:
    """``value`` for supervisord's configuration, where a percent sign begins an expansion."""
    return str(value).replace("%", "%%")
