"""A simulation as Parquet files: every decision of both sides, and the summary. pyarrow is needed for nothing else here."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from cli.simulation.result import Result, Row, is_digest
from messages.words import CHANNELS
from policy.simulation import BILLION, Judged, Replayed

DECISIONS_FILE = "decisions.parquet"
SUMMARY_FILE = "summary.parquet"

_ROW_GROUP = 65_536


class ParquetMissing(Exception):
    """pyarrow is not installed; the message says what to do."""


def require_pyarrow() -> None:
    """Raise ParquetMissing where the files cannot be written."""
    try:
        importlib.import_module("pyarrow")
    except ImportError:
        raise ParquetMissing("--out needs pyarrow, which comes with `pip install herald-notifications[jobs]`") from None


def _arrow() -> Any:
    return importlib.import_module("pyarrow")


def decision_schema() -> Any:
    """One row a decision; ``final`` marks the last one of a notification, so that each has one such row a policy.

    ``channels`` are those on which this decision sent, ``cost`` is what that costs. Times are UTC, in milliseconds.
    """
    pa = _arrow()
    return pa.schema(
        [
            ("policy", pa.string()),
            ("tenant", pa.string()),
            ("user", pa.string()),
            ("source", pa.string()),
            ("event_id", pa.string()),
            ("category", pa.string()),
            ("outcome", pa.string()),
            ("reason", pa.string()),
            ("channels", pa.list_(pa.string())),
            ("deliveries", pa.int32()),
            ("cost", pa.float64()),
            ("arrived_at", pa.timestamp("ms", "UTC")),
            ("decided_at", pa.timestamp("ms", "UTC")),
            ("release_at", pa.timestamp("ms", "UTC")),
            ("step", pa.int32()),
            ("part", pa.string()),
            ("digest", pa.bool_()),
            ("final", pa.bool_()),
        ]
    )


class DecisionPart:
    """The rows of one part of the users, collected and then written to a file of their own."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {field: [] for field in decision_schema().names}

    def take(self, policy: str, replayed: Replayed) -> None:
        """Add the decisions of a user under ``policy``."""
        last = {judged.record.origin: index for index, judged in enumerate(replayed.decisions) if not judged.record.child}
        for index, judged in enumerate(replayed.decisions):
            row = _row(policy, judged, last.get(judged.record.origin) == index)
            for name, value in row.items():
                self._columns[name].append(value)

    def write(self, file: Path) -> None:
        """Write them as an Arrow file."""
        pa, schema = _arrow(), decision_schema()
        arrays = [pa.array(self._columns[field.name], field.type) for field in schema]
        with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, schema) as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _row(policy: str, judged: Judged, final: bool) -> dict[str, Any]:
    record = judged.record
    went_out = {channel for channel, _ in judged.deliveries}
    return {
        "policy": policy,
        "tenant": record.tenant,
        "user": record.user,
        "source": record.source,
        "event_id": record.event_id,
        "category": record.category,
        "outcome": record.outcome,
        "reason": record.reason,
        "channels": [channel for channel in CHANNELS if channel in went_out],
        "deliveries": len(judged.deliveries),
        "cost": sum(cost for _, cost in judged.deliveries) / BILLION,
        "arrived_at": record.arrived_at,
        "decided_at": record.decided_at,
        "release_at": record.release_at,
        "step": record.step,
        "part": record.part,
        "digest": is_digest(record),
        "final": final,
    }


def write_files(directory: Path, parts: Iterable[Path], result: Result) -> None:
    """Write both files. Each appears when it is complete, the summary last: where it is, the decisions are of the same run.

    The parts are those of DecisionPart, in the order in which their rows shall stand.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = {name: directory / f".{name}.{secrets.token_hex(4)}" for name in (DECISIONS_FILE, SUMMARY_FILE)}
    try:
        _write_decisions(made[DECISIONS_FILE], parts)
        _write_summary(made[SUMMARY_FILE], result)
        (directory / SUMMARY_FILE).unlink(missing_ok=True)
        for name, file in made.items():
            file.replace(directory / name)
    finally:
        for file in made.values():
            file.unlink(missing_ok=True)


def _write_decisions(file: Path, parts: Iterable[Path]) -> None:
    pa, parquet = _arrow(), importlib.import_module("pyarrow.parquet")
    schema = decision_schema()
    waiting: list[Any] = []
    with parquet.ParquetWriter(str(file), schema, compression="zstd") as writer:
        for part in parts:
            with pa.OSFile(str(part), "rb") as source:
                waiting.append(pa.ipc.open_file(source).read_all())
            if sum(table.num_rows for table in waiting) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _write_summary(file: Path, result: Result) -> None:
    """A row a figure: ``measure`` (a list of the result), ``name``, both sides, the difference."""
    pa, parquet = _arrow(), importlib.import_module("pyarrow.parquet")
    rows: list[tuple[str, Row]] = []
    for measure in ("outcomes", "waits", "pending", "digests", "deliveries", "cost", "latency", "bounds"):
        rows += [(measure, row) for row in getattr(result, measure)]
    rows.append(("refused_commands", result.refused_commands))
    for category in result.categories:
        rows += [("category_sent", category.sent), ("category_deliveries", category.deliveries)]
    schema = pa.schema(
        [
            ("measure", pa.string()),
            ("name", pa.string()),
            ("base", pa.float64()),
            ("candidate", pa.float64()),
            ("difference", pa.float64()),
            ("percent", pa.float64()),
        ]
    )
    table = [{"measure": measure} | msgspec.structs.asdict(row) for measure, row in rows]
    # What has no side of its own stands under the candidate.
    table += [{"measure": "users", "name": name, "candidate": number} for name, number in result.users.items()]
    table += [
        {"measure": "notifications", "name": name, "candidate": getattr(result, attribute)}
        for name, attribute in (("all", "notifications"), *((each, each) for each in ("otherwise", "later", "earlier")))
    ]
    parquet.write_table(pa.Table.from_pylist(table, schema=schema), str(file))
