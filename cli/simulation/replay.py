"""The run of a simulation: recorded input is spread over files by user, and each file replayed under both sides.

A user's records are all in one of ``SHARDS`` files, so a process holds one of these and what it decodes of it, however much
there is in all. The result does not depend on how many processes there are.
"""

from __future__ import annotations

import fcntl
import gc
import heapq
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import msgspec

from cli.simulation.parquet import DecisionPart
from cli.simulation.result import Comparison
from connectors.recording import Advance, Input, Recorded
from messages.codec import DecodeError
from messages.profile import Profile, decode_change, decode_profile
from messages.topics import CHANGES, EVENTS, PROFILES
from messages.words import Lane, split_user_key, user_key
from policy import simulation
from policy.core import Change
from policy.simulation import Replayed, Side, arrived, expand, replay

SHARDS = 256
"""Files over which the input is spread."""

SMALL = 5_000
"""Notifications up to which the start of processes takes longer than they save."""

_WORKSPACE, _LOCK = "herald-simulate-", "lock"

BASE, CANDIDATE = "base", "candidate"

_LANES: dict[str, Lane] = {topic: lane for lane, topic in EVENTS.items()}
# Of one millisecond commands come first; between topics the job itself knows no order.
_ORDER = {CHANGES: 0, EVENTS["urgent"]: 1, EVENTS["background"]: 2}

Place = tuple[int, int, int, int]
"""Where a record stands among all: its time, its topic's order, partition, offset."""


class SimulationError(Exception):
    """A simulation that could not be run to its end; the message says why."""


class Counted(msgspec.Struct):
    """What was read. ``unreachable`` are the records that reach nobody: rejected as a whole on both sides. Times in
    milliseconds, None where nothing was read.
    """

    events: int = 0
    unreachable: int = 0
    notifications: int = 0
    commands: int = 0
    profiles: int = 0
    first: int | None = None
    last: int | None = None


class _Entry(msgspec.Struct, array_like=True):
    """A record as it stands in a shard: for which of the shard's users, and its value."""

    topic: str
    partition: int
    offset: int
    at: int
    users: list[str]
    value: bytes | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Entry).decode


class _Bitmap:
    """Which users have been seen: those that were, and a few others. 8 MiB, however many there are."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << 23)

    def add(self, key: str) -> None:
        number = crc32(key.encode("utf-8", "surrogatepass")) >> 6
        self._bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, key: str) -> bool:
        number = crc32(key.encode("utf-8", "surrogatepass")) >> 6
        return bool(self._bits[number >> 3] & 1 << (number & 7))


def of_interest(records: Callable[[Callable[[str], bool]], Iterable[Recorded]]) -> Iterator[Recorded]:
    """The records that ``records`` gives; it is asked for the profiles of those who are in one of the others."""
    seen = _Bitmap()
    for record in records(seen.__contains__):
        if record.topic == CHANGES and record.key is not None:
            seen.add(record.key)
        elif record.topic in _LANES and (found := expand(record.value or b"")) is not None:
            for user in found[1]:
                seen.add(user_key(found[0], user))
        yield record


class Shards:
    """The input, spread by user over files in ``directory``.

    Of more than ``limit`` events the earliest are replayed, and commands up to the last of them.
    """

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        self.counted = Counted()
        self._directory = directory
        self._files: dict[int, BinaryIO] = {}
        self._inputs: Counter[int] = Counter()
        self._seen = _Bitmap()
        self._limit = limit
        # Negated, so that the latest of the earliest is at the top.
        self._earliest: list[tuple[int, ...]] = []

    def read(self, given: Input, advance: Advance) -> None:
        """Take all of the input in."""
        try:
            for record in given.records(self._seen.__contains__, advance):
                self._take(record)
        finally:
            for file in self._files.values():
                file.close()

    @property
    def files(self) -> dict[Path, int]:
        """The files that there are, in their order, and how many notifications and commands each has."""
        return {self._directory / str(number): self._inputs[number] for number in sorted(self._files)}

    @property
    def cut(self) -> Place | None:
        """The last event that is replayed; None: all are."""
        if self._limit is None or self.counted.events <= self._limit:
            return None
        time, order, partition, offset = (-part for part in self._earliest[0])
        return time, order, partition, offset

    @property
    def last(self) -> int:
        """The time of the last record that is replayed."""
        return self.cut[0] if self.cut is not None else self.counted.last or 0

    def file_of(self, key: str) -> Path:
        """The file that a user's records are in, if there are any."""
        return self._directory / str(_shard(key))

    def _take(self, record: Recorded) -> None:
        counted = self.counted
        if record.topic == PROFILES:
            counted.profiles += 1
            self._take_keyed(record)
            return
        counted.first = record.at if counted.first is None else min(counted.first, record.at)
        counted.last = record.at if counted.last is None else max(counted.last, record.at)
        if record.topic == CHANGES:
            counted.commands += 1
            self._take_keyed(record)
            return
        counted.events += 1
        if self._limit is not None:
            place = tuple(-part for part in _place(record.at, record.topic, record.partition, record.offset))
            push = heapq.heappush if len(self._earliest) < self._limit else heapq.heappushpop
            push(self._earliest, place)
        found = expand(record.value or b"")
        if found is None:
            counted.unreachable += 1
            return
        tenant, users, payload = found
        counted.notifications += len(users)
        keys = [user_key(tenant, user) for user in users]
        for key in keys:
            self._seen.add(key)
        self._write(record, keys, payload)

    def _take_keyed(self, record: Recorded) -> None:
        key = record.key or ""
        try:
            split_user_key(key)
        except ValueError:
            self.counted.unreachable += 1
            return
        self._seen.add(key)
        self._write(record, [key], record.value)

    def _write(self, record: Recorded, keys: list[str], value: bytes | None) -> None:
        by_shard: dict[int, list[str]] = {}
        for key in keys:
            by_shard.setdefault(_shard(key), []).append(key)
        for number, users in by_shard.items():
            file = self._files.get(number)
            if file is None:
                file = self._files[number] = (self._directory / str(number)).open("wb")
            entry = _encode(_Entry(record.topic, record.partition, record.offset, record.at, users, value))
            file.write(len(entry).to_bytes(4, "big") + entry)
            self._inputs[number] += len(users) if record.topic != PROFILES else 0


def _shard(key: str) -> int:
    return crc32(key.encode("utf-8", "surrogatepass")) % SHARDS


def _place(at: int, topic: str, partition: int, offset: int) -> Place:
    return at, _ORDER[topic], partition, offset


class _Recording(msgspec.Struct):
    """The records of one user; ``unread`` counts commands that cannot be read."""

    inputs: list[tuple[Place, simulation.Input]] = []
    profile: Profile | None = None
    unread: int = 0


class Plan(msgspec.Struct, frozen=True):
    """What every part is replayed under: both sides, the last event, until when what waits is followed (milliseconds), and
    where the decisions go (None: nowhere).
    """

    base: Side
    candidate: Side
    cut: Place | None
    until: int
    parts: str | None = None


def _load(file: Path, cut: Place | None, only: str | None = None) -> dict[str, _Recording]:
    """The records of a shard's users, or of the user ``only``; each record once, however often it was recorded."""
    found: dict[str, _Recording] = {}
    seen: set[tuple[str, int, int]] = set()
    with file.open("rb") as entries:
        while size := entries.read(4):
            entry = _decode(entries.read(int.from_bytes(size, "big")))
            users = [user for user in entry.users if only is None or user == only]
            if entry.topic == PROFILES:
                for user in users:
                    found.setdefault(user, _Recording()).profile = _profile(user, entry)
                continue
            at = (entry.topic, entry.partition, entry.offset)
            place = _place(entry.at, *at)
            late = cut is not None and (place > cut if entry.topic in _LANES else entry.at > cut[0])
            if late or at in seen or not users:
                continue
            seen.add(at)
            if entry.topic in _LANES:
                origin = f"{entry.topic}/{entry.partition}/{entry.offset}"
                item = arrived(entry.value or b"", _LANES[entry.topic], origin, entry.at)
                for user in users:
                    found.setdefault(user, _Recording()).inputs.append((place, simulation.Input(entry.at, item)))
            else:
                _take_command(found.setdefault(users[0], _Recording()), place, entry)
    return found


def _profile(user: str, entry: _Entry) -> Profile | None:
    try:
        return None if entry.value is None else decode_profile(entry.value)
    except DecodeError as error:
        raise SimulationError(f"the profile of {user} ({entry.partition}/{entry.offset}) cannot be read: {error}") from None


def _take_command(recording: _Recording, place: Place, entry: _Entry) -> None:
    try:
        change = decode_change(entry.value or b"")
    except DecodeError:
        recording.unread += 1
        return
    item = Change(change, (entry.partition, entry.offset), entry.at)
    recording.inputs.append((place, simulation.Input(entry.at, item)))


def _ordered(recording: _Recording) -> list[simulation.Input]:
    """A user's inputs in the order of their time; commands of a partition also in that of their offsets.

    A command is not applied after a later one of its partition, whatever its clock said.
    """
    latest: dict[int, int] = {}
    placed = []
    for place, given in sorted(recording.inputs, key=lambda each: each[0][2:]):
        if isinstance(given.item, Change):
            at = latest[place[2]] = max(given.at, latest.get(place[2], given.at))
            placed.append(((at, *place[1:]), simulation.Input(at, given.item)))
        else:
            placed.append((place, given))
    return [given for _, given in sorted(placed, key=lambda each: each[0])]


def _both(plan: Plan, key: str, recording: _Recording) -> tuple[Replayed, Replayed]:
    try:
        tenant, user = split_user_key(key)
        inputs = _ordered(recording)
        base = replay(plan.base, tenant, user, recording.profile, inputs, plan.until)
        candidate = replay(plan.candidate, tenant, user, recording.profile, inputs, plan.until)
    except Exception as error:
        raise SimulationError(f"the decision core failed on user {key}: {type(error).__name__}: {error}") from error
    base.refused += recording.unread
    candidate.refused += recording.unread
    return base, candidate


def replay_shard(plan: Plan, file: Path) -> Comparison:
    """Replay all users of a file under both sides; the decisions, where wanted, become a file of the same name."""
    comparison = Comparison()
    part = None if plan.parts is None else DecisionPart()
    for key, recording in sorted(_load(file, plan.cut).items()):
        if not recording.inputs:
            continue
        base, candidate = _both(plan, key, recording)
        comparison.take(key, base, candidate)
        if part is not None:
            part.take(BASE, base)
            part.take(CANDIDATE, candidate)
    if part is not None and plan.parts is not None:
        part.write(Path(plan.parts) / file.name)
    return comparison


def replay_user(plan: Plan, shards: Shards, key: str) -> tuple[Replayed, Replayed] | None:
    """What both sides decide for one user; None where no record is about that user."""
    file = shards.file_of(key)
    recording = _load(file, plan.cut, key).get(key) if file.exists() else None
    return None if recording is None or not recording.inputs else _both(plan, key, recording)


def replay_all(plan: Plan, files: Mapping[Path, int], workers: int, advance: Advance) -> Comparison:
    """Replay all files in ``workers`` processes (1: in this one); ``advance`` is told how many inputs are done."""
    whole = Comparison()
    if workers == 1:
        for file, inputs in files.items():
            whole.merge(replay_shard(plan, file))
            advance(inputs)
        return whole
    # Not forked: a Kafka client's threads would be missing in the child.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (plan,))
    with pool:
        try:
            for future, inputs in _finished(pool, files):
                whole.merge(future.result())
                advance(inputs)
        except BrokenProcessPool:
            raise SimulationError(
                "a process of the simulation was ended from outside, for want of memory perhaps; try fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return whole


def _finished(pool: Executor, files: Mapping[Path, int]) -> Iterator[tuple[Future[Comparison], int]]:
    # The largest first, so that none of them is left for the end.
    asked = {pool.submit(_replay_shard, file): files[file] for file in sorted(files, key=lambda file: -files[file])}
    return ((future, asked[future]) for future in as_completed(asked))


_plan: Plan | None = None


def _begin(plan: Plan) -> None:
    """What a process does first."""
    global _plan  # noqa: PLW0603 - a process of the pool has no other place for what all its tasks share
    _plan = plan
    # Replaying makes very many objects and no cycles.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    # An interrupt is the parent's to handle; without a parent there is nobody to work for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _replay_shard(file: Path) -> Comparison:
    assert _plan is not None
    return replay_shard(_plan, file)


@contextmanager
def workspace() -> Iterator[Path]:
    """A directory for the shards, readable by its owner alone, gone at the end.

    What a run has left that was killed is removed by the next one: nobody holds its lock any more.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"{_WORKSPACE}*/{_LOCK}"):
        _remove_abandoned(lock)
    with tempfile.TemporaryDirectory(prefix=_WORKSPACE) as name:
        work = Path(name)
        with (work / "lock.new").open("wb") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            # Under its name it is locked from the first instant on.
            (work / "lock.new").rename(work / _LOCK)
            yield work


def _remove_abandoned(lock: Path) -> None:
    try:
        with lock.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    except OSError:
        return  # it is in use, somebody else's, or gone
