"""Run the gateway: ``python -m connectors.gateway``; settings come from ``HERALD_CONFIG``, or ``--config``."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings

from connectors.gateway.keys import KeysFileError, read_keys
from connectors.settings import ROOT, SettingsError, load_settings

_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


def _check_port(host: str, port: int) -> None:
    """Raise OSError where somebody listens there: granian's socket would share the port, and the requests, with them."""
    socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()


def main() -> None:
    """Serve until SIGTERM or SIGINT; then take nothing new, answer what was taken, and end."""
    parser = argparse.ArgumentParser(prog="python -m connectors.gateway", description="The HTTP gateway.")
    parser.add_argument("--config", type=Path, help="settings file; default: HERALD_CONFIG, else the packaged one")
    arguments = parser.parse_args()
    if arguments.config is not None:
        os.environ["HERALD_CONFIG"] = str(arguments.config)
    try:
        settings = load_settings().gateway
        read_keys(ROOT / settings.keys_file)
        _check_port(settings.host, settings.port)
    except (SettingsError, KeysFileError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: cannot listen on {settings.host}:{settings.port}: {error.strerror}; see gateway.port")
    Granian(
        "connectors.gateway.app:application",
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=settings.read_within),
        loop=Loops.uvloop,
        websockets=False,
        workers=settings.workers,
        # An answer may take as long as Kafka may, and the producer is flushed after the last one.
        workers_kill_timeout=2 * settings.acknowledge_within // 1000 + 5,
        log_dictconfig=_LOGGING,
    ).serve()


if __name__ == "__main__":
    main()
