"""Recorded input of the decision job: events, commands and profiles, read from Kafka or from files, and written to one.

A file has a record a line, as JSON: ``{"topic", "key", "timestamp", "value"}``, with ``partition`` and ``offset`` where they
are known. A line may also be a plain CloudEvent.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.settings import KafkaSettings
from messages.codec import DecodeError, json_decoder
from messages.event import Instant, milliseconds
from messages.topics import CHANGES, EVENTS, PROFILES
from messages.words import Lane

PROFILES_FILE = "profiles.jsonl"
"""Lines of a file of this name are profiles where they do not say otherwise."""

UNPLACED = -1
"""The partition of a record that does not say where it stood: no profile knows it as applied."""

INPUTS = (*EVENTS.values(), CHANGES, PROFILES)

# Seconds that the broker has to answer.
_PATIENCE = 15.0

# What a broker answers while the leader of a partition changes, or is new.
_LEADERLESS = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART)

Wanted = Callable[[str], bool]
"""Asked for the profile of a user, by the key, after all events were given: is it of interest?"""

Advance = Callable[[int], None]
"""Told how far reading has come: by how many of the units of which there are ``total``."""


class RecordingError(Exception):
    """Recorded input that cannot be read or written; the message names the place and what to do."""


class Recorded(msgspec.Struct, frozen=True):
    """One record; ``topic`` without the deployment's prefix, ``at`` the broker's time in milliseconds."""

    topic: str
    partition: int
    offset: int
    key: str | None
    at: int
    value: bytes | None


class Window(msgspec.Struct, frozen=True):
    """The time that counts, in milliseconds: from ``since`` on, before ``until``; None is without an end."""

    since: int | None = None
    until: int | None = None

    def has(self, record: Recorded) -> bool:
        """Whether a record counts; a profile always does, being the one of now."""
        if record.topic == PROFILES:
            return True
        return (self.since is None or record.at >= self.since) and (self.until is None or record.at < self.until)


class Input(Protocol):
    """Where recorded input comes from."""

    @property
    def total(self) -> int:
        """How much there is to read, in units of its own."""

    def records(self, wanted: Wanted, advance: Advance) -> Iterator[Recorded]:
        """Everything in the window, in no order that means anything; RecordingError."""


class FileInput:
    """The records of a file, or of all ``*.jsonl`` files of a directory; its units are bytes."""

    def __init__(self, path: Path, window: Window) -> None:
        self._window = window
        self._files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not self._files:
            raise RecordingError(f"{path}: no recording (*.jsonl) there; `herald policy record --out FILE` makes one")

    @property
    def total(self) -> int:
        """The size of all files."""
        return sum(file.stat().st_size for file in self._files)

    def records(self, wanted: Wanted, advance: Advance) -> Iterator[Recorded]:
        """Everything in the window; profiles are given as they come, whoever they are of."""
        return (record for record in self._all(advance) if self._window.has(record))

    def latest(self) -> int:
        """The time of the latest record that is no profile; 0 without one."""
        return max((record.at for record in self._all(lambda _: None) if record.topic != PROFILES), default=0)

    def _all(self, advance: Advance) -> Iterator[Recorded]:
        count = 0
        for file in self._files:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    advance(len(line))
                    if not line.strip():
                        continue
                    count += 1
                    try:
                        yield _record(line, count, PROFILES if file.name == PROFILES_FILE else None)
                    except DecodeError as error:
                        raise RecordingError(f"{file}:{number}: {error}") from None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    topic: str | None = None
    partition: int = UNPLACED
    offset: int | None = None
    key: str | None = None
    timestamp: int | Instant | None = None
    value: msgspec.Raw = msgspec.Raw(b"")
    value_base64: str | None = None


class _PlainData(msgspec.Struct):
    priority: Lane = "background"


class _Plain(msgspec.Struct):
    time: Instant
    data: _PlainData = msgspec.field(default_factory=_PlainData)


class _Peek(msgspec.Struct):
    specversion: msgspec.Raw = msgspec.Raw(b"")


_decode_peek = json_decoder(_Peek)
_decode_plain = json_decoder(_Plain)
_decode_line = json_decoder(_Line)


def _record(text: bytes, count: int, topic: str | None) -> Recorded:
    """The record of a line, the ``count``-th of all; DecodeError."""
    text = text.strip()
    if bytes(_decode_peek(text).specversion):
        plain = _decode_plain(text)
        return Recorded(EVENTS[plain.data.priority], UNPLACED, count, None, milliseconds(plain.time), text)
    line = _decode_line(text)
    topic = line.topic or topic
    if topic is None:
        raise DecodeError("Object needs `topic`, or has to be a CloudEvent with its `specversion`")
    if topic not in INPUTS:
        raise DecodeError(f"`{topic}` is no input of the decision job; these are: {', '.join(INPUTS)}", "$.topic")
    if topic in (CHANGES, PROFILES) and line.key is None:
        raise DecodeError("a record of this topic needs its user, as `tenant/user`", "$.key")
    if topic != PROFILES and line.timestamp is None:
        raise DecodeError("a record of this topic needs its time: milliseconds since the epoch, or RFC 3339", "$.timestamp")
    at = line.timestamp or 0
    offset = count if line.offset is None else line.offset
    return Recorded(
        topic, line.partition, offset, line.key, milliseconds(at) if isinstance(at, datetime) else at, _value(line)
    )


def _value(line: _Line) -> bytes | None:
    raw = bytes(line.value)
    if line.value_base64 is not None:
        if raw:
            raise DecodeError("`value` and `value_base64` exclude each other", "$.value_base64")
        try:
            return base64.b64decode(line.value_base64, validate=True)
        except binascii.Error as error:
            raise DecodeError(f"not base64: {error}", "$.value_base64") from None
    if not raw:
        raise DecodeError("Object needs `value`: the record's value as JSON or as text, null for a removal")
    if raw.startswith(b'"'):
        text: str = msgspec.json.decode(raw)
        return text.encode("utf-8", "surrogatepass")
    return None if raw == b"null" else raw


def line_of(record: Recorded) -> bytes:
    """The line, without its end, that is read as this record again."""
    fields: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key,
        "timestamp": record.at,
    }
    value = record.value
    if value is None:
        fields["value"] = None
    elif _is_plain(value):
        fields["value"] = msgspec.Raw(value)
    else:
        try:
            fields["value"] = value.decode()
        except UnicodeDecodeError:
            fields["value_base64"] = base64.b64encode(value).decode()
    return msgspec.json.encode(fields)


def _is_plain(value: bytes) -> bool:
    """Whether the bytes can stand in a line as they are: a JSON object on one line, nothing around it."""
    if not (value.startswith(b"{") and value.endswith(b"}")) or b"\n" in value or b"\r" in value:
        return False
    try:
        msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def write_recording(file: Path, records: Iterable[Recorded]) -> int:
    """Write a recording, readable by its owner alone, and return the number of its lines.

    The file appears when it is complete; a run that ends early leaves the one before.
    """
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    count = 0
    try:
        with os.fdopen(handle, "wb") as out:
            for record in records:
                out.write(line_of(record) + b"\n")
                count += 1
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)
    return count


class KafkaInput:
    """What the topics hold, committed, up to their ends as they are when this is made; its units are offsets.

    RecordingError where the broker does not answer or a topic is missing.
    """

    def __init__(self, settings: KafkaSettings, window: Window) -> None:
        self._settings = settings
        self._window = window
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": f"{settings.prefix}recording",  # nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        try:
            self._ranges = {topic: self._settled_range(topic) for topic in INPUTS}
        except KafkaException as error:
            self._consumer.close()
            raise self._failure(error) from None
        except RecordingError:
            self._consumer.close()
            raise

    @property
    def total(self) -> int:
        """How many offsets are read; some may hold no record."""
        return sum(end - begin for ranges in self._ranges.values() for begin, end in ranges.values())

    def records(self, wanted: Wanted, advance: Advance) -> Iterator[Recorded]:
        """Everything in the window; profiles last, and only those that are ``wanted``. It can be read once."""
        try:
            for topics in ((*EVENTS.values(), CHANGES), (PROFILES,)):
                for record in self._read(topics, advance):
                    if record.topic == PROFILES:
                        if record.key is not None and wanted(record.key):
                            yield record
                    elif self._window.has(record):
                        yield record
        except KafkaException as error:
            raise self._failure(error) from None
        finally:
            self._consumer.close()

    def _settled_range(self, topic: str) -> dict[int, tuple[int, int]]:
        """The ranges of a topic; while a partition's leader changes they are asked for again."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._range(topic)
            except KafkaException as error:
                if error.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def _range(self, topic: str) -> dict[int, tuple[int, int]]:
        """From which offset to which each partition is read."""
        name = self._settings.prefix + topic
        partitions = self._consumer.list_topics(name, timeout=_PATIENCE).topics[name].partitions
        if not partitions:
            raise RecordingError(
                f"no topic {name} on {self._settings.bootstrap}; create the topics with `herald topics apply`"
            )
        ranges = {
            number: self._consumer.get_watermark_offsets(TopicPartition(name, number), timeout=_PATIENCE)
            for number in partitions
        }
        if topic != PROFILES and self._window.since is not None:
            asked = [TopicPartition(name, number, self._window.since) for number in partitions]
            for found in self._consumer.offsets_for_times(asked, timeout=_PATIENCE):
                end = ranges[found.partition][1]
                # Negative: nothing is that late.
                ranges[found.partition] = (min(found.offset, end) if found.offset >= 0 else end, end)
        return ranges

    def _read(self, topics: Iterable[str], advance: Advance) -> Iterator[Recorded]:
        prefix = self._settings.prefix
        left = {
            (prefix + topic, number): bounds
            for topic in topics
            for number, bounds in self._ranges[topic].items()
            if bounds[0] < bounds[1]
        }
        reached = {place: begin for place, (begin, _) in left.items()}
        self._consumer.assign([TopicPartition(*place, begin) for place, begin in reached.items()])
        while left:
            message = self._consumer.poll(_PATIENCE)
            if message is None:
                raise RecordingError(f"Kafka at {self._settings.bootstrap} has stopped answering; try again")
            place = message.topic() or "", message.partition() or 0
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if place not in left:
                continue
            end = left[place][1]
            offset = end if error is not None else message.offset() or 0
            position = min(offset + 1, end)
            advance(position - reached[place])
            reached[place] = position
            if offset < end:
                yield self._recorded(message)
            if position == end:
                del left[place]
                self._consumer.pause([TopicPartition(*place)])

    def _recorded(self, message: Message) -> Recorded:
        key = message.key()
        return Recorded(
            (message.topic() or "").removeprefix(self._settings.prefix),
            message.partition() or 0,
            message.offset() or 0,
            None if key is None else key.decode(errors="replace"),
            message.timestamp()[1],
            message.value(),
        )

    def _failure(self, error: KafkaException) -> RecordingError:
        return RecordingError(f"Kafka at {self._settings.bootstrap}: {error.args[0].str()}; is it up (herald status)?")
