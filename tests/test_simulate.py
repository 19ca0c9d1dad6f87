"""``herald policy simulate`` on recorded files: figures, files, and what it says of bad input."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from cli.commands_simulate import COMMANDS
from cli.main import main
from cli.simulation.parquet import DECISIONS_FILE, SUMMARY_FILE, write_files
from cli.simulation.replay import SHARDS
from cli.simulation.result import Comparison, percentile, result_of, three_digits
from connectors.recording import FileInput, Recorded, RecordingError, Window, line_of, write_recording
from connectors.settings import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "recording.jsonl"

POLICIES = """
version: 1
defaults: {currency: EUR}
categories:
  news: {class: marketing, channels: [push], max_age: 24h}
  codes: {class: critical, channels: [sms]}
prices:
  sms: {default: 0.1}
"""
THROTTLED = POLICIES.replace("max_age: 24h", "throttle: {limit: 1, period: 1d, action: drop}").replace("0.1", "0.25")

NOON = 1_790_078_400_000
USERS = 40


def simulate(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["policy", "simulate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def figures(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(simulate(*arguments, "--json", "--providers", "all").stdout)
    return found


def rows(report: dict[str, Any], measure: str) -> dict[str, tuple[float, float, float]]:
    return {row["name"]: (row["base"], row["candidate"], row["difference"]) for row in report["result"][measure]}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return written(tmp_path / "base", POLICIES)


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return written(tmp_path / "candidate", THROTTLED)


def written(directory: Path, text: str) -> Path:
    directory.mkdir()
    (directory / "default.yaml").write_text(text, encoding="utf-8")
    return directory


def an_event(number: int, users: list[str], at: int, category: str = "news") -> dict[str, Any]:
    time = f"2026-09-22T12:00:{at // 1000 % 60:02}Z"
    data = {"recipients": {"users": users}, "category": category, "content": {"push": {"body": "x"}, "sms": {"body": "x"}}}
    return {"specversion": "1.0", "id": f"e{number}", "source": "s", "type": "t", "time": time, "data": data}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Each of the users gets two of the news, and a code; one event is broken."""
    endpoints = [{"id": "p", "provider": "fcm", "address": "a"}, {"id": "n", "provider": "twilio", "address": "b"}]
    users = [f"user-{number}" for number in range(USERS)]
    lines: list[dict[str, Any]] = [
        {"topic": "profiles", "key": f"default/{user}", "value": {"v": 1, "version": 1, "endpoints": endpoints}}
        for user in users
    ]
    for number, category in enumerate(("news", "news", "codes")):
        at = NOON + number * 1000
        value = an_event(number, users, at, category)
        lines.append({"topic": "events.background", "partition": 1, "offset": number, "timestamp": at, "value": value})
    lines.append({"topic": "events.urgent", "partition": 0, "offset": 0, "timestamp": NOON + 5000, "value": "broken"})
    file = tmp_path / "recording.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def test_the_figures_of_both_sides_and_their_difference(base: Path, candidate: Path, recording: Path) -> None:
    report = figures("--policies", candidate, "--against", base, "--from", recording)
    assert rows(report, "outcomes") == {
        "sent": (3 * USERS, 2 * USERS, -USERS),
        "suppressed: throttled": (0, USERS, USERS),
    }
    assert rows(report, "deliveries") == {
        "push": (2 * USERS, USERS, -USERS),
        "sms": (USERS, USERS, 0),
        "all": (3 * USERS, 2 * USERS, -USERS),
    }
    assert rows(report, "cost")["all"] == (4, 10, 6)
    result = report["result"]
    assert result["users"] == {"all": USERS, "more": 0, "fewer": USERS, "same": 0}
    assert result["ways"] == [{"base": "sent on push", "candidate": "suppressed: throttled", "notifications": USERS}]
    assert [row["category"] for row in result["categories"]] == ["news"]
    # Of many alike the first by name.
    assert [row["user"] for row in result["most_changed_users"]] == sorted(f"default/user-{n}" for n in range(USERS))[:10]
    assert (report["read"]["events"], report["read"]["unreachable"], result["notifications"]) == (4, 1, 3 * USERS)
    assert report["base"]["currency"] == "EUR"


def test_the_same_set_on_both_sides_differs_in_nothing(base: Path, recording: Path) -> None:
    report = figures("--policies", base, "--against", base, "--from", recording)
    result = report["result"]
    assert (result["otherwise"], result["later"], result["earlier"], result["ways"], result["categories"]) == (
        0,
        0,
        0,
        [],
        [],
    )
    assert result["users"]["same"] == USERS
    assert "Nothing differs" in simulate("--policies", base, "--against", base, "--from", recording).stdout


def test_a_later_release_is_no_other_end(tmp_path: Path, recording: Path) -> None:
    one, two = (
        written(tmp_path / name, POLICIES.replace("max_age: 24h", f"throttle: {{limit: 1, period: {name}}}"))
        for name in ("1h", "2h")
    )
    result = figures("--policies", two, "--against", one, "--from", recording)["result"]
    assert (result["otherwise"], result["later"], result["earlier"]) == (0, USERS, 0)
    latency = {row["name"]: (row["base"], row["candidate"]) for row in result["latency"]}
    assert latency["deferred, then sent"] == (USERS, USERS)
    # A second after the token was taken, to three digits.
    assert latency["p50, ms"] == latency["p99, ms"] == (3_600_000, 7_200_000)


def test_what_still_waits_is_shown_by_kind(tmp_path: Path, base: Path, recording: Path) -> None:
    slow = written(tmp_path / "slow", POLICIES.replace("max_age: 24h", "throttle: {limit: 1, period: 30d}"))
    arguments = ("--policies", slow, "--against", base, "--from", recording)
    assert rows(figures(*arguments), "pending") == {"deferred": (0, USERS, USERS)}
    assert rows(figures(*arguments, "--horizon", "31d"), "pending") == {}


def test_a_run_alone_and_one_in_processes_give_the_same_bytes(
    tmp_path: Path, base: Path, candidate: Path, recording: Path
) -> None:
    found = []
    for name, workers in (("one", 1), ("again", 1), ("many", 3)):
        out = tmp_path / name
        arguments = ("--policies", candidate, "--against", base, "--from", recording, "--workers", workers, "--out", out)
        told = simulate(*arguments, "--json").stdout
        found.append((told, (out / DECISIONS_FILE).read_bytes(), (out / SUMMARY_FILE).read_bytes()))
    assert found[0] == found[1] == found[2]


def test_the_decisions_can_be_read_and_agree_with_the_figures(
    tmp_path: Path, base: Path, candidate: Path, recording: Path
) -> None:
    out = tmp_path / "out"
    report = figures("--policies", candidate, "--against", base, "--from", recording, "--out", out)
    table = parquet.read_table(out / DECISIONS_FILE).to_pylist()
    for index, policy in enumerate(("base", "candidate")):
        mine = [row for row in table if row["policy"] == policy]
        ends = Counter(
            row["outcome"] if row["reason"] is None else f"{row['outcome']}: {row['reason']}" for row in mine if row["final"]
        )
        assert ends == {name: row[index] for name, row in rows(report, "outcomes").items() if row[index]}
        assert sum(row["cost"] for row in mine) == pytest.approx(rows(report, "cost")["all"][index])
        assert sum(row["deliveries"] for row in mine) == rows(report, "deliveries")["all"][index]
    first = table[0]
    assert (first["tenant"], first["category"], first["channels"]) == ("default", "news", ["push"])
    assert first["decided_at"].timestamp() * 1000 == NOON
    summary = parquet.read_table(out / SUMMARY_FILE).to_pylist()
    sent = next(row for row in summary if (row["measure"], row["name"]) == ("outcomes", "sent"))
    assert (sent["base"], sent["candidate"], sent["difference"]) == rows(report, "outcomes")["sent"]
    assert sorted(file.name for file in out.iterdir()) == [DECISIONS_FILE, SUMMARY_FILE]


def test_files_that_cannot_be_finished_leave_those_that_were_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (DECISIONS_FILE, SUMMARY_FILE):
        (out / name).write_bytes(b"of an earlier run")
    part = tmp_path / "part"
    part.write_bytes(b"not an Arrow file")
    with pytest.raises(pa.ArrowInvalid):
        write_files(out, [part], result_of(Comparison(), same_currency=True))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        DECISIONS_FILE: b"of an earlier run",
        SUMMARY_FILE: b"of an earlier run",
    }


def test_nothing_is_left_of_a_run_nor_of_one_that_was_killed(tmp_path: Path, base: Path, recording: Path) -> None:
    spool = tmp_path / "tmp"
    for name in ("killed", "running"):
        (spool / f"herald-simulate-{name}" / "input").mkdir(parents=True)
        (spool / f"herald-simulate-{name}" / "lock").touch()
    arguments = ["--policies", base, "--against", base, "--from", recording, "--workers", 2]
    with (spool / "herald-simulate-running" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = subprocess.run(
            [sys.executable, "-m", "cli.main", "policy", "simulate", *map(str, arguments)],
            env={"TMPDIR": str(spool), "PATH": "/usr/bin:/bin"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    assert [each.name for each in spool.iterdir()] == ["herald-simulate-running"]


def test_currencies_that_differ_are_not_subtracted(tmp_path: Path, base: Path, recording: Path) -> None:
    other = written(tmp_path / "other", POLICIES.replace("EUR", "GBP"))
    report = figures("--policies", other, "--against", base, "--from", recording)
    assert rows(report, "cost")["all"] == (4, 4, None)


def test_the_window_is_counted_back_from_the_recording_s_end(base: Path, recording: Path) -> None:
    def events(*window: str) -> int:
        report = figures("--policies", base, "--against", base, "--from", recording, *window)
        number: int = report["read"]["events"]
        return number

    # The last record is of 5 s after noon.
    assert events() == 4
    assert events("--since", "1s") == 1
    assert events("--since", "4s") == 2
    assert events("--until", "3s") == 3
    assert events("--since", "2026-09-22T12:00:01+00:00", "--until", "2026-09-22T12:00:02") == 1


def test_a_limit_takes_the_earliest_events_whatever_their_order_in_the_file(base: Path, recording: Path) -> None:
    lines = recording.read_text(encoding="utf-8").splitlines(keepends=True)
    recording.write_text("".join(reversed(lines)), encoding="utf-8")
    report = figures("--policies", base, "--against", base, "--from", recording, "--limit", 2)
    assert (report["read"]["events"], report["replayed_events"]) == (4, 2)
    assert rows(report, "deliveries")["all"][0] == 2 * USERS
    assert "sms" not in rows(report, "deliveries")


def test_a_record_that_was_recorded_twice_is_replayed_once(tmp_path: Path, base: Path, recording: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for name in ("one.jsonl", "two.jsonl"):
        shutil.copy(recording, both / name)
    report = figures("--policies", base, "--against", base, "--from", both)
    assert rows(report, "outcomes") == {"sent": (3 * USERS, 3 * USERS, 0)}


def test_commands_of_a_partition_keep_their_order_whatever_their_clocks_said(base: Path, recording: Path) -> None:
    deny = {"kind": "set_preferences", "id": "a", "preferences": [{"category": "news", "allow": False}]}
    quiet = {"kind": "set_quiet_hours", "id": "b", "quiet_hours": []}
    place = {"topic": "changes", "key": "default/user-0", "partition": 0}
    with recording.open("a", encoding="utf-8") as file:
        # The later one's clock was behind: by its time alone it would come first, and the other would count as applied.
        for offset, at, value in ((7, NOON - 1000, deny), (8, NOON - 2000, quiet)):
            file.write(json.dumps(place | {"offset": offset, "timestamp": at, "value": value}) + "\n")
    report = figures("--policies", base, "--against", base, "--from", recording)
    assert rows(report, "outcomes")["suppressed: opted_out"] == (2, 2, 0)


def test_commands_that_nobody_can_apply_are_counted(base: Path, recording: Path) -> None:
    with recording.open("a", encoding="utf-8") as file:
        for key, value in (("default/user-0", "{"), ("default/user-0", {"kind": "dance", "id": "1"}), ("nobody", {})):
            file.write(json.dumps({"topic": "changes", "key": key, "timestamp": NOON, "value": value}) + "\n")
    report = figures("--policies", base, "--against", base, "--from", recording)
    assert report["result"]["refused_commands"]["base"] == 2
    assert (report["read"]["commands"], report["read"]["unreachable"]) == (3, 2)


def test_plain_events_and_a_file_of_profiles(tmp_path: Path, base: Path) -> None:
    there = tmp_path / "plain"
    there.mkdir()
    profile = {"v": 1, "version": 1, "endpoints": [{"id": "p", "provider": "fcm", "address": "a"}]}
    (there / "profiles.jsonl").write_text(json.dumps({"key": "default/ada", "value": profile}) + "\n\n", encoding="utf-8")
    events = [an_event(number, ["ada"], NOON) for number in range(2)]
    events[1]["data"]["priority"] = "urgent"
    (there / "events.jsonl").write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    report = figures("--policies", base, "--against", base, "--from", there)
    assert rows(report, "deliveries")["push"] == (2, 2, 0)
    assert report["read"]["first"] == NOON


def test_what_is_told_of_a_user(base: Path, candidate: Path, recording: Path) -> None:
    arguments = ("--policies", candidate, "--against", base, "--from", recording, "--explain", "user-7")
    told = figures(*arguments)["explained"]
    assert [(each["same"], each["base"]["event_id"]) for each in told] == [(True, "e0"), (False, "e1"), (True, "e2")]
    assert told[1]["candidate"]["decisions"][0]["reason"] == "throttled"
    assert "it was not sent: the user's limit for this category was reached." in told[1]["candidate"]["sentences"][0]
    assert not [line for each in told for line in each["base"]["sentences"] if "view" in line or "Delivery" in line]
    text = " ".join(simulate(*arguments, "--providers", "all").stdout.split())
    assert "Event e1 of s (news, marketing) for default/user-7" in text
    assert text.count("Alike on both sides") == 2
    message = simulate(*arguments[:-1], "nobody", code=1).output
    assert "no record of the input is about default/nobody" in message


def test_the_table_shows_every_figure_in_eighty_columns(base: Path, candidate: Path, recording: Path) -> None:
    text = simulate("--policies", candidate, "--against", base, "--from", recording, "--providers", "all").stdout
    assert re.search(r"suppressed: throttled +0 +40 +\+40 +new", text)
    assert re.search(r"sent +120 +80 +-40 +-33.3 %", text)
    assert re.search(r"sms +4.0000 +10.0000 +\+6.0000 +\+150 %", text)
    assert "Neither is what really happened" in text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "1: $: "),
        ("{}", "1: $: Object needs `topic`, or has to be a CloudEvent"),
        ('{"topic": "decisions", "timestamp": 1, "value": {}}', "1: $.topic: `decisions` is no input"),
        ('{"topic": "events.urgent", "value": {}}', "1: $.timestamp: a record of this topic needs its time"),
        ('{"topic": "events.urgent", "timestamp": 1}', "1: $: Object needs `value`"),
        ('{"topic": "changes", "timestamp": 1, "value": {}}', "1: $.key: a record of this topic needs its user"),
        ('{"topic": "events.urgent", "timestamp": 1, "value": {}, "colour": 1}', "unknown field `colour`"),
        ('{"topic": "events.urgent", "timestamp": 1, "value_base64": "?"}', "1: $.value_base64: not base64"),
        ('{"specversion": "1.0"}', "1: $: Object missing required field `time`"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, base: Path, line: str, says: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    output = simulate("--policies", base, "--against", base, "--from", file, code=1).output
    assert f"{file}:" in output
    assert says in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--from", "nowhere.jsonl"), "no such file or directory; make a recording"),
        (("--against", "nowhere"), "nowhere: no such directory; name a directory of policy files, a version"),
        (("--since", "yesterday"), "neither a duration, such as 24h, nor an instant"),
        (("--since", "1h", "--until", "2h"), "it is not before --until"),
        (("--horizon", "soon"), "`soon` is not a duration"),
        (("--providers", "fcm,pigeon"), "no provider is called pigeon"),
    ],
)
def test_an_option_that_cannot_be_is_named(base: Path, recording: Path, arguments: tuple[str, ...], says: str) -> None:
    given = ("--policies", base, "--against", base, "--from", recording, *arguments)
    assert says in " ".join(simulate(*given, code=2).output.replace("│", " ").split())


@pytest.mark.parametrize(
    "value",
    [b'{"a": 1}', b'{"a":\n1}', b"", b"not JSON", b'"text"', b"null", b"\xff\x00", "ü".encode(), b'{"a": 1} x', None],
)
def test_a_line_gives_the_bytes_back(tmp_path: Path, value: bytes | None) -> None:
    record = Recorded("changes", 3, 17, "default/ada", NOON, value)
    assert write_recording(tmp_path / "r.jsonl", [record]) == 1
    assert list(FileInput(tmp_path / "r.jsonl", Window()).records(lambda key: True, lambda done: None)) == [record]
    assert line_of(record).count(b"\n") == 0


def test_a_recording_that_is_not_finished_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_bytes(b"before")

    def records() -> Any:
        yield Recorded("changes", 0, 0, "default/ada", NOON, b"{}")
        raise RecordingError("the broker is gone")

    with pytest.raises(RecordingError):
        write_recording(file, records())
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("r.jsonl", b"before")]


def test_the_example_is_what_its_script_writes_and_shows_many_reasons() -> None:
    script = EXAMPLE.with_name("make_recording.py")
    written_by: dict[str, Any] = {"__name__": "make_recording", "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), written_by)
    assert EXAMPLE.read_text(encoding="utf-8") == written_by["lines"]()
    report = figures(
        "--policies", ROOT / "flink-conf/policies", "--against", ROOT / "flink-conf/policies", "--from", EXAMPLE
    )
    assert set(rows(report, "outcomes")) >= {
        "sent",
        "suppressed: cancelled",
        "suppressed: duplicate_event",
        "suppressed: duplicate_content",
        "suppressed: expired",
        "suppressed: stale",
        "suppressed: superseded",
        "rejected: unknown_category",
    }
    assert report["read"]["unreachable"] == 1


def test_percentiles_are_of_the_nearest_rank() -> None:
    counts = Counter(dict.fromkeys(range(1, 101), 1))
    assert (percentile(counts, 50), percentile(counts, 99), percentile(Counter(), 99)) == (50, 99, 0)
    assert percentile(Counter({7: 1, 9: 1}), 50) == 7
    assert [three_digits(value) for value in (0, 7, 999, 1_234, 1_235, 99_950)] == [0, 7, 999, 1_230, 1_240, 100_000]


def test_the_page_names_every_option_and_no_other() -> None:
    text = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
    options = {name for command in COMMANDS for option in command.params for name in option.opts if name.startswith("--")}
    assert set(re.findall(r"--[a-z]+", text)) == options
    assert f"over {SHARDS} files in the temporary directory" in text


def test_the_page_s_example_is_what_it_shows(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
    old, new = re.findall(r"sed -i 's/(.*)/(.*)/'", text)[0]
    shutil.copytree(ROOT / "flink-conf/policies", tmp_path / "candidate")
    shop = tmp_path / "candidate" / "shop.yaml"
    assert old in shop.read_text(encoding="utf-8")
    shop.write_text(shop.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    arguments = ("--policies", tmp_path / "candidate", "--against", ROOT / "flink-conf/policies", "--from", EXAMPLE)
    shown = simulate(*arguments, "--providers", "all").stdout
    (example,) = re.findall(r"```\n(Of .*?)```", text, re.DOTALL)
    headline, *rows_shown = [line for line in example.splitlines() if line.strip()]
    assert headline in shown
    for row in rows_shown[2:]:
        figures_of_row = row.split("█")[0].split()
        assert figures_of_row in [line.split("█")[0].split() for line in shown.splitlines()]
