"""The local stack: what `herald up`, `down` and `status` do with real processes, and what they leave behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
import requests
from msgspec.structs import replace

from cli.stack.program import StackError, port_in_use
from cli.stack.stack import Stack
from cli.stack.stack_settings import port_of, write_settings
from connectors import topics as administration
from connectors.settings import RedisSettings, Settings
from tests.conftest import free_settings
from tests.waiting import until


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a stack of its own, which is down after the test whatever became of it."""
    settings = free_settings(tmp_path / "stack")
    yield settings
    Stack(settings).down()
    assert processes_of(settings) == []


def processes_of(settings: Settings) -> list[str]:
    """Every living process that works in the stack's directory, found without the stack's own records."""
    directory = settings.stack.directory
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if process.status() != psutil.STATUS_ZOMBIE and (
                any(directory in word for word in words) or process.cwd().startswith(directory)
            ):
                found.append(" ".join(words))
        except psutil.Error:
            continue
    return found


def herald(settings: Settings, *arguments: str, code: int = 0) -> str:
    """What the herald command prints, run on the stack as a user does."""
    run = subprocess.run(command(settings, *arguments), capture_output=True, text=True, check=False, env=environment())
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout


def command(settings: Settings, *arguments: str) -> list[str]:
    file = Path(settings.stack.directory).with_suffix(".yaml")
    write_settings(settings, file)
    return [sys.executable, "-m", "cli.main", "--config", str(file), *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "HERALD_CONFIG"}


def kill(stack: Stack, name: str) -> int:
    record = stack.record(name)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not record.running())
    return record.pid


def listening_addresses(pid: int) -> set[str]:
    connections = psutil.Process(pid).net_connections(kind="inet")
    return {found.laddr.ip.removeprefix("::ffff:") for found in connections if found.status == psutil.CONN_LISTEN}


def test_kafka_redis_and_flink_come_up_are_shown_and_go_down(settings: Settings) -> None:
    herald(settings, "up", "--only", "kafka,redis,flink")

    programs = {program["name"]: program for program in json.loads(herald(settings, "status", "--json"))}
    running = ["kafka", "redis", "jobmanager", "taskmanager-1", "taskmanager-2"]
    assert [name for name, program in programs.items() if program["state"] == "running"] == running
    assert all(psutil.pid_exists(programs[name]["pid"]) and Path(programs[name]["log"]).exists() for name in running)
    assert {name: listening_addresses(programs[name]["pid"]) for name in running} == {
        name: {"127.0.0.1"} for name in running
    }
    assert administration.differences(settings.kafka) == []
    assert redis.Redis.from_url(settings.redis.url).ping()

    overview = requests.get(f"{settings.job.rest}/overview", timeout=10).json()
    assert (overview["taskmanagers"], overview["slots-total"]) == (2, 2)
    for name in ("jobmanager", "taskmanager-1", "taskmanager-2"):
        port = settings.stack.metrics_port + ("jobmanager", "taskmanager-1", "taskmanager-2").index(name)
        metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        assert f"flink_{name.split('-')[0]}_Status_JVM_CPU_Time" in metrics

    pid = programs["taskmanager-1"]["pid"]
    os.kill(pid, signal.SIGKILL)
    stack = Stack(settings)
    until(lambda: (record := stack.record("taskmanager-1")) and record.pid != pid and record.running(), 30)
    until(lambda: requests.get(f"{settings.job.rest}/overview", timeout=10).json()["slots-available"] == 2, 60)

    herald(settings, "down")
    assert processes_of(settings) == []
    herald(settings, "status", code=1)


def test_a_killed_redis_is_started_again_with_its_data(settings: Settings) -> None:
    stack = Stack(settings, ["redis"])
    stack.up()
    client = redis.Redis.from_url(settings.redis.url)
    client.set("claim", "sending")
    pid = kill(stack, "redis")
    until(lambda: (record := stack.record("redis")) and record.pid != pid and record.running())
    until(lambda: answers(client))
    assert client.get("claim") == b"sending"


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_up_again_leaves_what_runs_and_starts_what_does_not(settings: Settings) -> None:
    stack = Stack(settings, ["redis"])
    stack.up()
    before = stack.record("redis")
    Stack(settings, ["kafka", "redis"]).up()
    assert stack.record("redis") == before
    assert {program.name for program in stack.status() if program.state == "running"} == {"kafka", "redis"}


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(settings: Settings) -> None:
    data = Path(settings.stack.directory) / "redis"
    data.mkdir(parents=True)
    (data / "appendonly.aof").write_bytes(b"this is no append-only file")
    with pytest.raises(StackError, match=r"(?s)redis did not become ready.*Bad file format"):
        Stack(settings, ["kafka", "redis"]).up()
    assert processes_of(settings) == []


def test_a_program_added_in_vain_does_not_take_the_others_down(settings: Settings) -> None:
    stack = Stack(settings, ["redis"])
    stack.up()
    (Path(settings.stack.directory) / "kafka").write_text("in the way", encoding="utf-8")
    with pytest.raises(FileExistsError):
        Stack(settings, ["kafka"]).up()
    assert {program.name: program.state for program in stack.status()}["redis"] == "running"
    (Path(settings.stack.directory) / "kafka").unlink()


def test_a_port_in_use_is_named_and_nothing_is_left(settings: Settings) -> None:
    port = port_of(settings.redis.url)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(StackError, match=f"redis: port {port} is in use"),
    ):
        Stack(settings, ["kafka", "redis"]).up()
    assert processes_of(settings) == []


def test_a_port_wanted_twice_is_named() -> None:
    settings = Settings(redis=RedisSettings(url="redis://127.0.0.1:9092/0"))
    with pytest.raises(StackError, match="port 9092 is wanted by kafka and by redis"):
        Stack(settings)


def test_two_stacks_side_by_side(settings: Settings, tmp_path: Path) -> None:
    other = free_settings(tmp_path / "other")
    first, second = Stack(settings, ["kafka", "redis"]), Stack(other, ["kafka", "redis"])
    try:
        first.up()
        second.up()
        redis.Redis.from_url(settings.redis.url).set("who", "first")
        redis.Redis.from_url(other.redis.url).set("who", "second")
        first.down()
        assert processes_of(settings) == []
        assert redis.Redis.from_url(other.redis.url).get("who") == b"second"
        assert administration.differences(other.kafka) == []
    finally:
        second.down()
    assert processes_of(other) == []


def test_down_finds_what_a_killed_supervisor_left(settings: Settings) -> None:
    stack = Stack(settings, ["kafka", "redis"])
    stack.up()
    kill(stack, "supervisord")
    assert {program.state for program in stack.status() if program.pid} == {"running, unsupervised"}
    stack.down()
    assert processes_of(settings) == []


def test_up_replaces_what_a_killed_supervisor_left(settings: Settings) -> None:
    stack = Stack(settings, ["redis"])
    stack.up()
    pid = kill(stack, "supervisord")
    stack.up()
    record = stack.record("supervisord")
    assert record is not None
    assert record.pid != pid
    assert {program.name: program.state for program in stack.status()}["redis"] == "running"


def test_down_after_an_up_that_was_killed_half_way(settings: Settings) -> None:
    stack = Stack(settings)
    running = subprocess.Popen(
        command(settings, "up", "--only", "kafka,redis"), env=environment(), stdout=subprocess.DEVNULL
    )
    until(lambda: stack.record("kafka"), what="Kafka is being started")
    running.kill()
    running.wait()
    stack.down()
    assert processes_of(settings) == []


def test_a_record_of_another_process_is_not_believed(settings: Settings) -> None:
    stack = Stack(settings, ["redis"])
    stack.up()
    stack.down()
    run = Path(settings.stack.directory) / "run"
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        (run / "redis.pid").write_text(json.dumps({"name": "redis", "pid": bystander.pid, "started": 1.0}), encoding="utf-8")
        stack.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_no_port_of_a_stack_is_given_twice(settings: Settings) -> None:
    stack = settings.stack
    ports = [
        port_of(settings.kafka.bootstrap),
        port_of(settings.redis.url),
        port_of(settings.job.rest),
        settings.gateway.port,
        stack.kafka_controller_port,
        stack.flink_rpc_port,
        stack.fcm_emulator_port,
        *range(stack.metrics_port, stack.metrics_port + stack.taskmanagers + 1),
    ]
    assert len(set(ports)) == len(ports)
    assert not any(port_in_use(port) for port in ports)


def test_an_unknown_program_is_named(settings: Settings) -> None:
    with pytest.raises(StackError, match="no program kafak in the stack; there are taskmanagers, flink, kafka"):
        Stack(settings, ["kafak"])


def test_an_address_elsewhere_is_refused(settings: Settings) -> None:
    with pytest.raises(StackError, match=r"kafka\.example:9092: the local stack listens on 127\.0\.0\.1"):
        Stack(replace(settings, kafka=replace(settings.kafka, bootstrap="kafka.example:9092")))


def test_two_at_work_in_one_directory_are_refused(settings: Settings) -> None:
    directory = Path(settings.stack.directory)
    directory.mkdir(parents=True)
    with (directory / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StackError, match="another `herald up` or `herald down` is at work"):
            Stack(settings, ["redis"]).up()
    Stack(settings, ["redis"]).up()
