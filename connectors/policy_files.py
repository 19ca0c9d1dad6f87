"""Policy documents as files: a directory of YAML that together is one set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from messages.codec import DecodeError
from messages.policy import Policy


class PolicyFileError(ValueError):
    """A policy file that cannot be used; the message names the file, the key and what is wrong."""


def load_policies(directory: Path) -> Policy:
    """The set of all ``*.yaml`` files of ``directory``: a category stands in one file, any other key in one file too.

    Raises PolicyFileError.
    """
    files = sorted(directory.glob("*.yaml"))
    if not files:
        raise PolicyFileError(f"{directory}: no policy file (*.yaml) there")
    whole: dict[str, Any] = {"categories": {}}
    home: dict[str, Path] = {}
    for file in files:
        for key, value in _read(file).items():
            parts = value if key == "categories" and isinstance(value, dict) else {None: value}
            for part, content in parts.items():
                path = f"$.{key}" if part is None else f"$.categories.{part}"
                if path in home:
                    raise PolicyFileError(f"{file}: {path}: {home[path].name} has it too; keep one")
                home[path] = file
                if part is None:
                    whole[key] = content
                else:
                    whole["categories"][part] = content
    try:
        return msgspec.convert(whole, Policy)
    except msgspec.ValidationError as error:
        problem = DecodeError.of(error)
        place = next((file for path, file in home.items() if problem.path.startswith(path)), files[0])
        raise PolicyFileError(f"{place}: {problem.path}: {problem.reason}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyFileError(f"{file}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise PolicyFileError(f"{file}: $: expected keys and values, got {type(document).__name__}")
    return document
