"""Flink on the stack: a standalone cluster from PyFlink's distribution, a JobManager and TaskManagers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import requests
import yaml

from cli.stack.program import Probe, Program, StackError, get_json, venv_path
from cli.stack.stack_settings import port_of
from connectors.settings import ROOT, Settings

JARS = ROOT / "var" / "lib" / "flink"
RUNTIME = ROOT / "runtime" / "target" / "herald-runtime.jar"
CONFIGURATION = ROOT / "flink-conf"


def flink_home(directory: Path) -> Path:
    """FLINK_HOME of the stack in ``directory``."""
    return directory / "flink"


def flink_environment(directory: Path) -> dict[str, str]:
    """What Flink's scripts, ``bin/flink`` among them, need to work with the stack in ``directory``."""
    home = flink_home(directory)
    return {
        "FLINK_HOME": str(home),
        "FLINK_CONF_DIR": str(home / "conf"),
        "FLINK_LOG_DIR": str(directory / "logs" / "flink"),
        "FLINK_PID_DIR": str(directory / "run"),
        # Else "No module named pemja": the interpreter that a TaskManager embeds is found by PATH.
        "PATH": venv_path(),
    }


def flink_programs(settings: Settings, directory: Path) -> list[Program]:
    """The JobManager at ``settings.job.rest`` and ``settings.stack.taskmanagers`` TaskManagers."""
    numbers = range(1, settings.stack.taskmanagers + 1)
    return [_jobmanager(settings, directory), *(_taskmanager(settings, directory, number) for number in numbers)]


def _jobmanager(settings: Settings, directory: Path) -> Program:
    environment = _environment(directory, "jobmanager")

    def prepare() -> None:
        _make_directories(environment)
        assemble(settings, directory)

    return Program(
        name="jobmanager",
        command=[str(flink_home(directory) / "bin" / "jobmanager.sh"), "start-foreground"],
        environment=environment,
        ready=_rest_answers(settings.job.rest),
        prepare=prepare,
        ports=(port_of(settings.job.rest), settings.stack.flink_rpc_port, settings.stack.metrics_port),
        url=settings.job.rest,
        start_within=120,
    )


def _taskmanager(settings: Settings, directory: Path, number: int) -> Program:
    name = f"taskmanager-{number}"
    metrics = settings.stack.metrics_port + number
    environment = _environment(directory, name)
    return Program(
        name=name,
        command=[
            str(flink_home(directory) / "bin" / "taskmanager.sh"),
            "start-foreground",
            f"-Dtaskmanager.resource-id={name}",
            f"-Dmetrics.reporter.prom.port={metrics}",
        ],
        environment=environment,
        ready=_registered(settings.job.rest, name),
        prepare=lambda: _make_directories(environment),
        ports=(metrics,),
        url=f"http://127.0.0.1:{metrics}/metrics",
        wave=1,
        start_within=120,
    )


def _environment(directory: Path, name: str) -> dict[str, str]:
    own = {"FLINK_LOG_DIR": str(directory / "logs" / name), "FLINK_PID_DIR": str(directory / "run" / name)}
    return {**flink_environment(directory), **own}


def _make_directories(environment: Mapping[str, str]) -> None:
    for key in ("FLINK_LOG_DIR", "FLINK_PID_DIR"):
        Path(environment[key]).mkdir(parents=True, exist_ok=True)


def assemble(settings: Settings, directory: Path) -> None:
    """Build FLINK_HOME anew from the installed distribution, the connector and the built runtime jar.

    StackError when one of them is missing. Processes that run keep the files that they have open.
    """
    spec = find_spec("pyflink")
    if spec is None or not spec.submodule_search_locations:
        raise StackError("no PyFlink in this environment: run `make venv`, or install the package's extra `jobs`")
    distribution = Path(spec.submodule_search_locations[0])
    connectors = sorted(JARS.glob("flink-sql-connector-kafka-*.jar"))
    if not connectors:
        raise StackError(f"no Kafka connector for Flink in {JARS}: run `make jars`")
    if not RUNTIME.exists():
        raise StackError(f"no {RUNTIME}: run `make runtime`")

    home = flink_home(directory)
    for part in ("bin", "opt", "lib", "plugins", "conf"):
        shutil.rmtree(home / part, ignore_errors=True)
    # Flink's scripts resolve symbolic links, and would end up in the distribution: these two are real files.
    for part in ("bin", "opt"):
        shutil.copytree(distribution / part, home / part, copy_function=_link_or_copy)
    (home / "plugins").mkdir()
    (home / "lib").mkdir()
    jars = [*(distribution / "lib").glob("*.jar"), *(home / "opt").glob("flink-python-*.jar"), *connectors]
    # Not as a plugin: the runtime jar's reporter builds on it.
    jars += (distribution / "plugins" / "metrics-prometheus").glob("*.jar")
    for jar in jars:
        (home / "lib" / jar.name).symlink_to(jar)
    # A copy: a JVM that runs must not see its jar change when the module is built again.
    shutil.copy2(RUNTIME, home / "lib" / RUNTIME.name)

    (home / "conf").mkdir()
    for file in CONFIGURATION.glob("log4j-*.properties"):
        shutil.copy2(file, home / "conf" / file.name)
    shared = yaml.safe_load((CONFIGURATION / "config.yaml").read_text(encoding="utf-8"))
    configuration = {**dict(_leaves(shared)), **_own(settings, directory)}
    (home / "conf" / "config.yaml").write_text(yaml.safe_dump(configuration, width=10_000), encoding="utf-8")


def _own(settings: Settings, directory: Path) -> dict[str, object]:
    """What of Flink's configuration is of this machine and this stack."""
    home = flink_home(directory)
    rest = port_of(settings.job.rest)
    return {
        "taskmanager.numberOfTaskSlots": settings.stack.slots,
        "jobmanager.rpc.port": settings.stack.flink_rpc_port,
        "rest.port": rest,
        "rest.bind-port": rest,
        "metrics.reporter.prom.port": settings.stack.metrics_port,
        "io.tmp.dirs": str(home / "tmp"),
        "web.upload.dir": str(home / "tmp"),
        "execution.checkpointing.dir": (directory / "checkpoints").as_uri(),
        "execution.checkpointing.savepoint-dir": (directory / "savepoints").as_uri(),
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _rest_answers(rest: str) -> Probe:
    def probe() -> str | None:
        try:
            get_json(f"{rest}/overview")
        except requests.RequestException as error:
            return f"no answer from {rest}/overview ({type(error).__name__})"
        return None

    return probe


def _registered(rest: str, name: str) -> Probe:
    def probe() -> str | None:
        try:
            found = {taskmanager["id"] for taskmanager in get_json(f"{rest}/taskmanagers")["taskmanagers"]}
        except requests.RequestException as error:
            return f"no answer from {rest}/taskmanagers ({type(error).__name__})"
        return None if name in found else f"{name} is not among the JobManager's TaskManagers"

    return probe
