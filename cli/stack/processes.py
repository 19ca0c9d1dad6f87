"""Which processes belong to a stack: records of pid and start time, so that none is ever looked for by name.

A record is written by the process itself (``cli.stack.launch``) before it becomes the program. So whatever dies, and
at whatever line, a running program has a record, and a record never names a process that merely got the same pid.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec
import psutil


class Record(msgspec.Struct, frozen=True):
    """A started program: it leads the process group ``pid`` and was started at ``started`` (seconds since the epoch)."""

    name: str
    pid: int
    started: float

    def running(self) -> bool:
        """Whether the program itself is alive; a zombie is not."""
        return _same_process(self.pid, self.started)


def record_self(file: Path, name: str) -> None:
    """Write the record of the calling process to ``file``, atomically."""
    pid = os.getpid()
    record = Record(name=name, pid=pid, started=psutil.Process(pid).create_time())
    scratch = file.with_name(f"{file.name}.{pid}")
    scratch.write_bytes(msgspec.json.encode(record))
    scratch.replace(file)


def read_record(file: Path) -> Record | None:
    """The record in ``file``, or None where there is none."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def group_of(record: Record) -> list[psutil.Process]:
    """The living processes of the record's group: the program and what it started.

    A group outlives its leader, and its number is not given away before its last member is gone. So a leader with
    another start time means that the whole group is a stranger's.
    """
    if psutil.pid_exists(record.pid) and not record.running() and not _zombie(record.pid):
        return []
    members = []
    for process in psutil.process_iter():
        try:
            if (
                os.getpgid(process.pid) == record.pid
                and process.create_time() >= record.started - 1
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def stop_group(record: Record, within: float) -> None:
    """Ask the record's group to end, and kill what is still alive after ``within`` seconds."""
    for number, seconds in ((signal.SIGTERM, within), (signal.SIGKILL, 10.0)):
        members = group_of(record)
        for process in members:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        if wait_until_gone(record, seconds):
            return


def wait_until_gone(record: Record, within: float) -> bool:
    """Whether nothing of the record's group is left, after at most ``within`` seconds."""
    deadline = time.monotonic() + within
    while group_of(record):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _same_process(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        # The start time is derived from the boot time, which an adjusted clock can move a little.
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 1
    except psutil.NoSuchProcess:
        return False
