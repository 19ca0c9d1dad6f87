"""Calls of the running stack's gateway, with the stack's own API key."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
import requests

from cli.stack.stack_settings import absolute
from cli.stack.worker_programs import api_key_file
from connectors.settings import Settings
from messages.codec import encode_json
from messages.words import DEFAULT_TENANT

_TIMEOUT = 60
"""Seconds: longer than the gateway waits for Kafka."""


class GatewayCalls:
    """The gateway of a stack. Every failure is a click.ClickException that says what to do."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"http://127.0.0.1:{settings.gateway.port}"
        file = api_key_file(absolute(settings.stack.directory))
        try:
            key = file.read_text("utf-8").strip()
        except OSError as error:
            raise click.ClickException(
                f"{file}: {error.strerror}; it holds the gateway's API key, `herald up` makes it"
            ) from None
        self._session = requests.Session()
        # It is on this machine: no proxy lies between.
        self._session.trust_env = False
        self._session.headers.update({"Authorization": f"Bearer {key}", "Content-Type": "application/json"})

    def call(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """The body of the answer to a request that was taken; ``body`` is sent as JSON, bytes as they are."""
        data = body if body is None or isinstance(body, bytes) else encode_json(body)
        try:
            answer = self._session.request(method, self._url + path, data=data, timeout=_TIMEOUT, **options)
            told = answer.json()
        except requests.JSONDecodeError:
            raise click.ClickException(f"what answers at {self._url} is no gateway (status {answer.status_code})") from None
        except requests.RequestException as error:
            raise click.ClickException(
                f"the gateway at {self._url} does not answer ({type(error).__name__}); `herald status` shows whether it runs"
            ) from None
        if answer.status_code not in (200, 202):
            place = f"{told['path']}: " if told.get("path") else ""
            raise click.ClickException(f"{place}{told.get('detail', told)} ({told.get('reason', answer.status_code)})")
        return told


def user_path(user: tuple[str, str], rest: str = "") -> str:
    """The path of a user's resource; click.ClickException for a tenant that is not the stack's."""
    return f"/v1/users/{quote(own_user(user), safe='')}{rest}"


def own_user(user: tuple[str, str]) -> str:
    """The user's name without its tenant, which must be the one that the stack's API key belongs to."""
    tenant, name = user
    if tenant != DEFAULT_TENANT:
        raise click.ClickException(
            f"the stack's API key is one of the tenant `{DEFAULT_TENANT}`; call the gateway with one of `{tenant}`"
        )
    return name
