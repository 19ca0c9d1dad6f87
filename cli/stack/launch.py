"""``python -m cli.stack.launch [--detach] SPECIFICATION``: become the program that a specification file describes.

Before it does, it ends what an earlier instance of the program left behind (a killed parent's workers hold its port),
removes a stale ready file and records its own pid and start time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from cli.stack.processes import read_record, record_self, stop_group


class Specification(msgspec.Struct, frozen=True):
    """What to run: ``command`` in ``directory`` with ``environment`` added, recorded in ``record``.

    ``log`` takes the standard output of a detached program.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    directory: str
    record: str
    ready_file: str | None = None
    log: str | None = None


def main(arguments: list[str]) -> None:
    """Replace this process by the program; never returns."""
    detach = arguments[0] == "--detach"
    specification = msgspec.json.decode(Path(arguments[-1]).read_bytes(), type=Specification)
    if detach:
        _detach(specification)
    record = Path(specification.record)
    earlier = read_record(record)
    if earlier is not None and earlier.pid != os.getpid():
        stop_group(earlier, within=0)
    if specification.ready_file is not None:
        Path(specification.ready_file).unlink(missing_ok=True)
    record_self(record, specification.name)
    os.chdir(specification.directory)
    environment = {**os.environ, **specification.environment}
    command = specification.command
    os.execvpe(command[0], command, environment)  # noqa: S606 - the command is the stack's own


def _detach(specification: Specification) -> None:
    """Leave the caller's session and terminal: the caller goes on at once, a new process carries on here."""
    if os.fork():
        os._exit(0)
    os.setsid()
    descriptor = os.open(specification.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
