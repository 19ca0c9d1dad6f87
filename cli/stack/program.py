"""What a program of the stack is, and the probes that tell whether one is ready."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import requests

Probe = Callable[[], str | None]
"""Returns None when the program is ready, else what is still missing."""


class StackError(Exception):
    """The stack cannot do what was asked; the message says what to do."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the stack. ``start_within`` and ``stop_within`` are seconds.

    ``prepare`` runs before every start by ``herald up``; it writes files and is harmless when repeated. ``ports`` are those
    that must be free then. Programs of one ``wave`` start side by side, once those of the waves before are ready.
    """

    name: str
    command: list[str]
    ready: Probe
    environment: Mapping[str, str] = {}
    prepare: Callable[[], None] = lambda: None
    ready_file: Path | None = None
    ports: tuple[int, ...] = ()
    wave: int = 0
    url: str = ""
    start_within: float = 60
    stop_within: float = 20


def venv_path() -> str:
    """PATH with the running interpreter's directory first, so that what the programs start is of this environment."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def ready_by_http(url: str, verify: Path | None = None) -> Probe:
    """Ready when GET ``url`` answers 200; ``verify`` is the certificate authority to trust, once it exists."""

    def probe() -> str | None:
        if verify is not None and not verify.exists():
            return f"no {verify} yet"
        try:
            answer = requests.get(url, timeout=2, verify=str(verify) if verify else True)
        except requests.RequestException as error:
            return f"no answer from {url} ({type(error).__name__})"
        return None if answer.status_code == 200 else f"{url} answers {answer.status_code}"

    return probe


def ready_by_file(file: Path) -> Probe:
    """Ready when ``file`` exists."""
    return lambda: None if file.exists() else f"no {file} yet"


def get_json(url: str) -> Any:
    """The decoded body of GET ``url``; requests.RequestException when there is none."""
    answer = requests.get(url, timeout=2)
    answer.raise_for_status()
    return answer.json()


def port_in_use(port: int) -> bool:
    """Whether something on this machine holds ``port`` of the loopback address."""
    with socket.socket() as probe:
        # A server's own connections may still be in TIME_WAIT; they do not hinder it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
