"""The policy version that each subtask of the running job decides by, as Flink's REST interface tells it."""

from __future__ import annotations

from typing import Any

import requests

from cli.job_control import JobControl, JobError
from connectors.settings import Settings

_OPERATOR = "decide"
_METRIC = "policy_version"


class RunningVersion:
    """Reads the gauge ``policy_version`` of ``decide``. Flink's JobManager collects gauges every ten seconds."""

    def __init__(self, settings: Settings) -> None:
        self._rest = settings.job.rest
        self._control = JobControl(settings)

    def read(self) -> list[int] | None:
        """A version a subtask; none of them while one has not said it yet; None where no job runs. JobError."""
        job = self._control.running()
        if job is None:
            return None
        vertex = next((found for found in self._get(f"/jobs/{job}")["vertices"] if _OPERATOR in found["name"]), None)
        if vertex is None:
            return []
        versions = []
        for subtask in range(vertex["parallelism"]):
            path = f"/jobs/{job}/vertices/{vertex['id']}/subtasks/{subtask}/metrics"
            name = next((metric["id"] for metric in self._get(path) if metric["id"].endswith(f".{_METRIC}")), None)
            value = [] if name is None else self._get(f"{path}?get={name}")
            if not value:
                return []
            versions.append(int(value[0]["value"]))
        return versions

    def _get(self, path: str) -> Any:
        try:
            answer = requests.get(self._rest + path, timeout=30)
            answer.raise_for_status()
            return answer.json()
        except requests.RequestException as error:
            raise JobError(f"Flink at {self._rest}: {error}") from None
