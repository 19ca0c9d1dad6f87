"""The operator's side of the wire, written from docs/runtime.md and sharing no code with ``udfs.bundle``.

``Operator`` does with an answer what the JVM does: it keeps states, pending entries and timers of every key, and hands
them to the handler under the same conditions.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from messages.codec import encode_json
from messages.decision import DecisionRecord, decode_decision
from messages.delivery import Delivery, decode_delivery
from messages.policy import Policy
from messages.profile import ProfileChange
from udfs.fanout import Handler, Setup, encode_setup

TIMER, BACKGROUND, URGENT, CHANGE, PROFILE = -1, 0, 1, 2, 3
TOPICS = {BACKGROUND: "events.background", URGENT: "events.urgent", CHANGE: "changes", PROFILE: "profiles"}


class Input(NamedTuple):
    """One item: whose, what, its bytes, where it came from."""

    key: str
    kind: int
    payload: bytes
    offset: int = 0
    partition: int = 0
    timestamp: int = 0


class Row(NamedTuple):
    """One output record."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str]]


class Touched(NamedTuple):
    """What is to be done for one key."""

    slot: int
    profile: tuple[int, bytes | None]
    activity: tuple[int, bytes | None]
    pending: list[tuple[str, bytes | None]]
    before: int
    due: int


class Answer(NamedTuple):
    """An answer, decoded."""

    touched: list[Touched]
    rows: list[Row]
    counters: dict[str, int]

    def on(self, topic: str) -> list[Row]:
        """The rows of one topic, in order."""
        return [row for row in self.rows if row.topic == topic]

    def decisions(self, key: str | None = None) -> list[DecisionRecord]:
        """The decision records, of one user or of all."""
        return [decode_decision(row.value) for row in self.on("decisions") if key is None or row.key == key.encode()]

    def deliveries(self) -> list[Delivery]:
        """The deliveries of all providers and lanes."""
        return [decode_delivery(row.value) for row in self.rows if row.topic.startswith("deliveries.")]

    def rejected(self) -> list[dict[str, Any]]:
        """The headers of what was rejected, with the bytes as ``value``."""
        return [dict(row.headers) | {"value": row.value} for row in self.on("rejected")]


def pack(value: Any) -> bytes:
    """msgpack with the long form of every header, as the JVM writes it."""
    match value:
        case None:
            return b"\xc0"
        case int():
            return b"\xd3" + struct.pack(">q", value)
        case str():
            data = value.encode()
            return b"\xdb" + struct.pack(">I", len(data)) + data
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value
        case dict():
            inner = b"".join(pack(key) + pack(item) for key, item in value.items())
            return b"\xdf" + struct.pack(">I", len(value)) + inner
        case list():
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    raise TypeError(type(value))


class Reader:
    """Reads the answer, big endian."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        piece = self.data[self.at : self.at + size]
        assert len(piece) == size, f"the answer ends at {len(self.data)}, {size} bytes wanted at {self.at}"
        self.at += size
        return piece

    def number(self, form: str) -> int:
        """One number of that struct form."""
        (value,) = struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))
        return int(value)

    def chunk(self) -> bytes | None:
        """A length and bytes, or null."""
        size = self.number("I")
        return None if size == 0xFFFFFFFF else self.take(size)

    def text(self) -> str:
        """A chunk that is text."""
        data = self.chunk()
        assert data is not None
        return data.decode()

    def operation(self) -> tuple[int, bytes | None]:
        """0 keep, 1 clear, 2 update and its bytes."""
        code = self.number("B")
        assert code in (0, 1, 2)
        return code, self.chunk() if code == 2 else None


def read_answer(data: bytes) -> Answer:
    """Decode an answer; nothing may be left over."""
    reader = Reader(data)
    touched = []
    for _ in range(reader.number("I")):
        slot, profile, activity = reader.number("I"), reader.operation(), reader.operation()
        pending = [(reader.text(), reader.chunk()) for _ in range(reader.number("I"))]
        touched.append(Touched(slot, profile, activity, pending, reader.number("q"), reader.number("q")))
    rows = []
    for _ in range(reader.number("I")):
        topic, key, value = reader.text(), reader.chunk(), reader.chunk()
        rows.append(Row(topic, key, value, [(reader.text(), reader.text()) for _ in range(reader.number("I"))]))
    counters = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        assert name not in counters
        counters[name] = reader.number("I")
    assert reader.at == len(data), "bytes after the answer's end"
    return Answer(touched, rows, counters)


def update(states: dict[str, bytes], key: str, operation: tuple[int, bytes | None]) -> None:
    """Do to one state what the operation says."""
    code, value = operation
    if code == 1:
        states.pop(key, None)
    elif code == 2:
        assert value is not None
        states[key] = value


class Operator:
    """States, pending entries and timers of every key, and a handler that decides."""

    def __init__(self, policy: Policy, providers: Iterable[str] = ("fcm", "inapp")) -> None:
        self.handler = Handler()
        self.handler.configure(encode_setup(Setup(policy=policy, providers=list(providers))), 0)
        self.profile: dict[str, bytes] = {}
        self.activity: dict[str, bytes] = {}
        self.pending: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.timers: set[tuple[str, int]] = set()
        self.offset = 0

    def states(self) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, dict[str, bytes]], set[tuple[str, int]]]:
        """Everything that is kept, to be compared."""
        pending = {key: dict(entries) for key, entries in self.pending.items() if entries}
        return dict(self.profile), dict(self.activity), pending, set(self.timers)

    def input(self, key: str, kind: int, payload: object, now: int = 0) -> Input:
        """An item at the next offset; a payload that is no bytes is encoded."""
        self.offset += 1
        data = payload if isinstance(payload, bytes) else encode_json(payload)
        return Input(key, kind, data, self.offset, 0, now)

    def run(self, now: int, *inputs: Input) -> Answer:
        """Decide a bundle and do what the answer says."""
        keys = list(dict.fromkeys(item.key for item in inputs))
        slots = []
        for key in keys:
            activity = self.activity.get(key)
            reads_pending = (activity is not None and activity[0] != 0) or any(
                item.key == key and item.kind == TIMER for item in inputs
            )
            slots.append([key, self.profile.get(key), activity, dict(self.pending[key]) if reads_pending else None])
        entries = [
            [
                keys.index(one.key),
                [one.kind, TOPICS.get(one.kind, ""), one.partition, one.offset, one.timestamp, one.payload],
            ]
            for one in inputs
        ]
        answer = read_answer(self.handler.decide(now, pack([slots, entries])))
        assert sorted(one.slot for one in answer.touched) == list(range(len(keys))), "every key once"
        for one in answer.touched:
            self.apply(keys[one.slot], one)
        return answer

    def apply(self, key: str, one: Touched) -> None:
        """What the JVM does with a key's part of the answer."""
        update(self.profile, key, one.profile)
        update(self.activity, key, one.activity)
        for name, value in one.pending:
            if value is None:
                self.pending[key].pop(name, None)
            else:
                self.pending[key][name] = value
        if one.before != one.due:
            self.timers.discard((key, one.before))
            if one.due > 0:
                self.timers.add((key, one.due))
        activity = self.activity.get(key)
        has_pending = activity is not None and activity[0] == 1
        assert has_pending == bool(self.pending[key]), "the first byte of activity says whether anything is pending"

    def fire(self, now: int, limit: int = 1_000) -> Answer:
        """All timers up to ``now``, oldest first, in one bundle."""
        due = sorted((at, key) for key, at in self.timers if at <= now)[:limit]
        self.timers -= {(key, at) for at, key in due}
        return self.run(now, *(Input(key, TIMER, b"", at) for at, key in due))


def change(what: ProfileChange) -> bytes:
    """A command as it travels."""
    return msgspec.json.encode(what)
