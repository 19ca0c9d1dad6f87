"""What a JobManager or a TaskManager reports to Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator

import requests

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(port: int) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of everything that the process at ``port`` reports."""
    text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    for name, labels, value in _SAMPLE.findall(text):
        yield name, dict(_LABEL.findall(labels)), float(value)


def value(port: int, name: str) -> float:
    """The highest value under that name: a JobManager goes on reporting jobs that have ended."""
    return max(value for found, _, value in samples(port) if found == name)
