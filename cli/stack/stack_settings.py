"""The settings that a local stack runs with: absolute paths, its own emulators, and free ports where asked for."""

from __future__ import annotations

import random
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec.structs import replace

from cli.stack.program import StackError, port_in_use
from connectors.settings import ROOT, Settings

# Below the range from which the kernel takes the ports of outgoing connections.
_FREE_PORTS = range(20_000, 32_000)


def absolute(path: str) -> Path:
    """``path`` as it is, or under the repository's root where it is relative."""
    return ROOT / path


def port_of(address: str) -> int:
    """The port in ``host:port`` or in a URL; StackError where there is none or where the host is not this machine."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname not in ("127.0.0.1", "localhost") or parts.port is None:
        raise StackError(f"{address}: the local stack listens on 127.0.0.1:PORT; write the address so")
    return parts.port


def local_settings(settings: Settings) -> Settings:
    """``settings`` as the stack's processes get them: paths made absolute, FCM at the stack's emulator."""
    directory = absolute(settings.stack.directory)
    emulator = directory / "emulator-fcm"
    return replace(
        settings,
        job=replace(settings.job, policies=str(absolute(settings.job.policies))),
        gateway=replace(settings.gateway, keys_file=str(directory / "gateway-keys.json")),
        fcm=replace(
            settings.fcm,
            url=f"https://127.0.0.1:{settings.stack.fcm_emulator_port}",
            credentials_file=str(emulator / "credentials.json"),
            ca_file=str(emulator / "ca.pem"),
        ),
        stack=replace(settings.stack, directory=str(directory)),
    )


def with_free_ports(settings: Settings) -> Settings:
    """``settings`` with every port of the stack replaced by one that is free now; the metrics ports stay consecutive."""
    taken: set[int] = set()

    def free(count: int = 1) -> int:
        for _ in range(1000):
            first = random.choice(_FREE_PORTS)  # noqa: S311 - nothing secret
            wanted = range(first, first + count)
            if taken.isdisjoint(wanted) and not any(port_in_use(port) for port in wanted):
                taken.update(wanted)
                return first
        raise StackError("no free port found between 20000 and 32000")

    database = urlsplit(settings.redis.url).path or "/0"
    return replace(
        settings,
        kafka=replace(settings.kafka, bootstrap=f"127.0.0.1:{free()}"),
        redis=replace(settings.redis, url=f"redis://127.0.0.1:{free()}{database}"),
        job=replace(settings.job, rest=f"http://127.0.0.1:{free()}"),
        gateway=replace(settings.gateway, port=free()),
        stack=replace(
            settings.stack,
            kafka_controller_port=free(),
            flink_rpc_port=free(),
            metrics_port=free(1 + settings.stack.taskmanagers),
            fcm_emulator_port=free(),
        ),
    )


def write_settings(settings: Settings, file: Path) -> None:
    """Write ``settings`` to ``file`` such that ``load_settings`` reads the same again; atomic."""
    text = yaml.safe_dump(msgspec.to_builtins(settings), sort_keys=False)
    scratch = file.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(file)
