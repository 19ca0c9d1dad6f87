"""What the commands share: which settings apply, how results and errors are shown."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console

from cli.stack.program import StackError
from cli.stack.stack import running_settings
from connectors.settings import Settings, SettingsError, load_settings
from connectors.topics import TopicsError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class Session:
    """The global options of one call of ``herald``."""

    def __init__(self, config: Path | None, directory: Path | None) -> None:
        self._config = config
        self._directory = directory

    def file_settings(self) -> Settings:
        """The settings as they are in the file, with the stack's directory where one was named."""
        settings = load_settings(self._config)
        if self._directory is None:
            return settings
        return replace(settings, stack=replace(settings.stack, directory=str(self._directory.absolute())))

    def settings(self) -> Settings:
        """What a command works on: a settings file where one was named, else the running local stack, else the defaults."""
        settings = self.file_settings()
        named = self._config is not None or "HERALD_CONFIG" in os.environ
        if named and self._directory is None:
            return settings
        return running_settings(settings) or settings


pass_session = click.make_pass_decorator(Session)


class HeraldGroup(click.Group):
    """A group whose commands end with a plain message where something expected went wrong."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; exit code 1 with the message of an error that says what to do."""
        try:
            return super().invoke(context)
        except (StackError, SettingsError, TopicsError, OSError) as error:
            errors.print(f"[red]herald:[/red] {_plain(str(error))}", soft_wrap=True)
            context.exit(1)


def print_json(value: object) -> None:
    """Print ``value`` as JSON, for programs."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
