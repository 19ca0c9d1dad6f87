"""Herald's own processes on the stack: the providers' emulators, the gateway, an adapter a provider, the views."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from cli.stack.program import Program, ready_by_file, ready_by_http
from connectors.gateway.keys import ApiKey, hash_key, new_key
from connectors.settings import Settings
from messages.words import LANES


def worker_programs(settings: Settings, directory: Path) -> list[Program]:
    """The programs, each started as ``python -m`` with the stack's settings in HERALD_CONFIG."""
    emulators = [_fcm_emulator(settings, directory)] if "fcm" in settings.job.providers else []
    return [
        *emulators,
        _gateway(settings, directory),
        *(
            _worker(directory, f"adapter-{name}", "connectors.adapters", "--provider", name, "--lanes", ",".join(LANES))
            for name in settings.job.providers
        ),
        _worker(directory, "views", "connectors.views"),
    ]


def _fcm_emulator(settings: Settings, directory: Path) -> Program:
    home = directory / "emulator-fcm"
    port = settings.stack.fcm_emulator_port
    url = f"https://127.0.0.1:{port}"
    return Program(
        name="emulator-fcm",
        command=[sys.executable, "-m", "emulators.fcm", "--port", str(port), "--directory", str(home)],
        ready=ready_by_http(f"{url}/healthz", verify=home / "ca.pem"),
        prepare=lambda: home.mkdir(parents=True, exist_ok=True),
        ports=(port,),
        url=url,
    )


def _gateway(settings: Settings, directory: Path) -> Program:
    url = f"http://127.0.0.1:{settings.gateway.port}"
    return Program(
        name="gateway",
        command=[sys.executable, "-m", "connectors.gateway"],
        ready=ready_by_http(f"{url}/healthz"),
        prepare=lambda: write_api_key(directory, Path(settings.gateway.keys_file)),
        ports=(settings.gateway.port,),
        url=url,
        wave=2,
    )


def _worker(directory: Path, name: str, module: str, *arguments: str) -> Program:
    ready_file = directory / "run" / f"{name}.ready"
    return Program(
        name=name,
        command=[sys.executable, "-m", module, *arguments, "--ready-file", str(ready_file)],
        ready=ready_by_file(ready_file),
        ready_file=ready_file,
        wave=2,
    )


def api_key_file(directory: Path) -> Path:
    """Where the stack in ``directory`` keeps the clear text of its API key, readable by its owner only."""
    return directory / "api-key"


def write_api_key(directory: Path, keys_file: Path) -> None:
    """Make the stack's API key on the first start, and the gateway's file of hashes from it on every one.

    The key is written first: after a death in between, the next start finds it and completes the other file.
    """
    file = api_key_file(directory)
    if not file.exists():
        _write_private(file, new_key().encode())
    entry = ApiKey(
        name="local",
        hash=hash_key(file.read_text("utf-8")),
        tenant="default",
        sources=["*"],
        scopes=["events", "profiles", "inbox"],
    )
    _write_private(keys_file, msgspec.json.encode([entry]))


def _write_private(file: Path, content: bytes) -> None:
    scratch = file.with_name(f"{file.name}.tmp")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    scratch.replace(file)
