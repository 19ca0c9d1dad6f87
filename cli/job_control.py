"""The notification_fanout job on a Flink cluster: packaged, submitted by ``flink run``, stopped with a savepoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests

from cli.stack.flink_programs import flink_environment, flink_home
from cli.stack.program import StackError
from cli.stack.stack import Stack, settings_file
from connectors.log_positions import end_offsets, has_records, wait_until_read
from connectors.settings import ROOT, Settings
from messages.topics import CHANGES, POLICIES, PROFILES

JOB = "notification_fanout"
PACKAGES = ("messages", "policy", "udfs", "jobs", "connectors")
"""What travels with the job; its imports reach no further."""

RUNNING = ("CREATED", "INITIALIZING", "RUNNING", "RESTARTING", "FAILING", "RECONCILING")

Say = Callable[[str], None]


class JobError(StackError):
    """The job cannot do what was asked; the message says what to do."""


def package(file: Path, root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> None:
    """Write the job's Python packages into one zip, packages at its root, as ``flink run -pyfs`` wants it; atomic."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".tmp")
    with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in packages:
            for source in sorted((root / name).rglob("*.py")):
                archive.write(source, source.relative_to(root))
    scratch.replace(file)


class JobControl:
    """The job on the local stack that runs with ``settings``. ``root`` is where its code is taken from."""

    def __init__(self, settings: Settings, root: Path = ROOT, say: Say = lambda line: None) -> None:
        self._settings = settings
        self._rest = settings.job.rest
        self._directory = Path(settings.stack.directory)
        self._root = root
        self._say = say

    @property
    def url(self) -> str:
        """Flink's web UI."""
        return self._rest

    @property
    def savepoints(self) -> Path:
        """Where savepoints are written."""
        return self._directory / "savepoints"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are written; those of a run that did not end by a stop are kept."""
        return self._directory / "checkpoints"

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of that name that the cluster knows, newest first, as Flink's REST describes them."""
        found = [job for job in self._get("/jobs/overview")["jobs"] if job["name"] == JOB]
        return sorted(found, key=lambda job: job["start-time"], reverse=True)

    def running(self) -> str | None:
        """The id of the job that runs or is about to, or None."""
        return next((job["jid"] for job in self.jobs() if job["state"] in RUNNING), None)

    def start(
        self,
        savepoint: str | None = None,
        inputs: str | None = None,
        parallelism: int | None = None,
        module: str = "jobs.notification_fanout",
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Submit the job, wait until it runs, and return its id. JobError where one runs, or this one may not start.

        TaskManagers keep imported modules for their whole life: they are restarted, so that the new code runs. What dies
        in between leaves a stack without TaskManagers, which ``herald up`` completes, or a job that waits for them.
        """
        if (running := self.running()) is not None:
            raise JobError(f"job {running} is running; stop it first (herald job stop), or use `herald job resume`")
        wanted = parallelism or self._settings.job.parallelism
        self._check_slots(wanted)
        code = self._directory / "herald-jobs.zip"
        # A graph of its own module, as the benchmark has one, travels with its package.
        package(code, self._root, tuple(dict.fromkeys((*PACKAGES, module.partition(".")[0]))))
        command = [
            str(flink_home(self._directory) / "bin" / "flink"),
            "run",
            "--detached",
            *(f"-D{key}={value}" for key, value in options.items()),
            *(["-s", savepoint, "--allowNonRestoredState"] if savepoint else []),
            *("-pyexec", sys.executable, "-pyclientexec", sys.executable, "-pyfs", str(code)),
            *("-pym", module),
            *("--config", str(settings_file(self._directory)), "--parallelism", str(wanted)),
            *(["--inputs", inputs] if inputs else []),
        ]
        self._stop_taskmanagers()
        # The job is submitted while they start again, and waits for their slots.
        with _Submission(command, self._directory) as submission:
            Stack(self._settings).start("taskmanagers")
            submission.wait(180)
        job = self.running()
        if job is None:
            raise JobError("the job ended as soon as it was submitted; see the JobManager's log")
        self._wait_until_running(job)
        self._say(f"job {job} runs")
        return job

    def stop(self, seconds: float = 120, directory: Path | None = None) -> str:
        """Stop the job with a savepoint and return its path; nothing is lost, and `resume` goes on from there."""
        job = self.running()
        if job is None:
            raise JobError("no job is running; start one with `herald job start`")
        directory = directory or self.savepoints
        directory.mkdir(parents=True, exist_ok=True)
        body = {"targetDirectory": directory.as_uri(), "drain": False}
        request = self._post(f"/jobs/{job}/stop", body)["request-id"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self._get(f"/jobs/{job}/savepoints/{request}")
            if answer["status"]["id"] == "COMPLETED":
                operation = answer["operation"]
                if "location" not in operation:
                    cause = operation.get("failure-cause", {}).get("stack-trace", "no cause given")
                    raise JobError(f"the savepoint failed; the job goes on: {cause.splitlines()[0]}")
                self._wait_until_ended(job, deadline)
                self._say(f"savepoint {operation['location']}")
                return str(operation["location"])
            time.sleep(0.2)
        raise JobError(f"no savepoint within {seconds:.0f} s; look at the job's checkpoints at {self._rest}")

    def rescale(self, parallelism: int) -> str:
        """Stop with a savepoint, start from it with another parallelism; JobError before the stop where there is no room."""
        self._check_slots(parallelism)
        return self.start(self.stop(), parallelism=parallelism)

    def cancel(self) -> None:
        """End the job without a savepoint; its retained checkpoints stay."""
        job = self.running()
        if job is not None:
            requests.patch(f"{self._rest}/jobs/{job}?mode=cancel", timeout=30).raise_for_status()
            self._wait_until_ended(job, time.monotonic() + 60)

    def latest_checkpoint(self) -> str:
        """The newest checkpoint that a cancelled, failed or killed run left; JobError where there is none."""
        return _newest(self._retained(), f"no retained checkpoint in {self.checkpoints}")

    def latest(self) -> str:
        """The newest of all savepoints and retained checkpoints; JobError where there is none."""
        complete = [*self.savepoints.glob("*/_metadata"), *self._retained()]
        return _newest(complete, f"no savepoint in {self.savepoints}, and no checkpoint in {self.checkpoints}")

    def _retained(self) -> list[Path]:
        return list(self.checkpoints.glob("*/chk-*/_metadata"))

    def bootstrap(self, seconds: float = 600) -> str:
        """Load all profiles, then the changes since, and return the savepoint from which the full job starts.

        Two runs of the same graph without its event inputs: a change that came before the profile it changes would be
        lost under it. Nobody is decided, so nobody is decided before their opt-outs are known.
        """
        kafka, group = self._settings.kafka, self._settings.kafka.prefix + self._settings.job.group
        # Half-loaded profiles must never be taken for the state to resume from.
        partial = self._directory / "bootstrap"
        options = {"execution.checkpointing.dir": partial.as_uri()}
        savepoint = None
        for inputs, topic, kept in (("profiles", PROFILES, partial), ("changes", CHANGES, self.savepoints)):
            ends = end_offsets(kafka, topic) | end_offsets(kafka, POLICIES)
            self._say(f"reading {topic} to its end")
            self.start(savepoint, inputs=inputs, options=options)
            wait_until_read(kafka, group, ends, seconds)
            savepoint = self.stop(directory=kept)
        assert savepoint is not None
        return savepoint

    def profiles_exist(self) -> bool:
        """Whether a job without savepoint would have to be bootstrapped first."""
        return has_records(self._settings.kafka, PROFILES)

    def _check_slots(self, parallelism: int) -> None:
        wanted = max(parallelism, self._settings.job.background_source_parallelism)
        slots = self._settings.stack.taskmanagers * self._settings.stack.slots
        if wanted > slots:
            raise JobError(
                f"parallelism {wanted} needs as many slots; the stack has {slots}: "
                "raise stack.taskmanagers in the settings, or choose less"
            )

    def _stop_taskmanagers(self) -> None:
        Stack(self._settings).stop("taskmanagers")
        deadline = time.monotonic() + 60
        # A job must not be given the slot of one that is gone.
        while self._get("/overview")["taskmanagers"]:
            if time.monotonic() > deadline:
                raise JobError("the JobManager does not let go of the stopped TaskManagers; see its log")
            time.sleep(0.1)

    def _wait_until_running(self, job: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while True:
            state = self._get(f"/jobs/{job}")
            if state["state"] == "RUNNING" and all(vertex["status"] == "RUNNING" for vertex in state["vertices"]):
                return
            failure = self._get(f"/jobs/{job}/exceptions").get("exceptionHistory", {}).get("entries", [])
            if state["state"] not in RUNNING or failure or time.monotonic() > deadline:
                cause = failure[0]["stacktrace"].splitlines()[:12] if failure else [f"it is {state['state']}"]
                raise JobError("the job does not run:\n" + "\n".join(cause))
            time.sleep(0.2)

    def _wait_until_ended(self, job: str, deadline: float) -> None:
        while self._get(f"/jobs/{job}")["state"] in RUNNING:
            if time.monotonic() > deadline:
                raise JobError(f"job {job} does not end; see {self._rest}")
            time.sleep(0.1)

    def _get(self, path: str) -> Any:
        try:
            answer = requests.get(self._rest + path, timeout=30)
            answer.raise_for_status()
            return answer.json()
        except requests.RequestException as error:
            raise JobError(f"Flink at {self._rest}: {error}; is the stack up (herald status)?") from None

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            answer = requests.post(self._rest + path, json=body, timeout=30)
            answer.raise_for_status()
            return answer.json()
        except requests.RequestException as error:
            raise JobError(f"Flink at {self._rest}: {error}") from None


class _Submission:
    """A ``flink run`` at work, its output in a log; left by an exception, it is ended."""

    def __init__(self, command: list[str], directory: Path) -> None:
        environment = os.environ | flink_environment(directory)
        self._log = directory / "logs" / "flink-run.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=directory, start_new_session=True
            )

    def wait(self, seconds: float) -> None:
        """Return when the job is submitted; JobError where it was refused, or not submitted within ``seconds``."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise JobError(f"flink run did not end within {seconds:.0f} s; see {self._log}") from None
        if code:
            raise JobError(_complaint(self._log.read_text("utf-8", errors="replace")))

    def __enter__(self) -> _Submission:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            # The JVM, and the Python program that it started.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _newest(metadata: list[Path], none: str) -> str:
    if not metadata:
        raise JobError(f"{none}; start from nothing with `herald job start`")
    return max(metadata, key=lambda file: file.stat().st_mtime).parent.as_uri()


def _complaint(output: str) -> str:
    """What the job's client program itself said, out of all that ``flink run`` logs when it fails."""
    lines = output.strip().splitlines()
    said = [line.split("PythonDriver - ", 1)[1] for line in lines if "PythonDriver - " in line]
    refusal = next((line for line in said if line.startswith(f"{JOB}: ")), None)
    if refusal is not None:
        return refusal
    return "flink run failed:\n" + "\n".join(said or lines[-25:])
