"""Policy documents as files: a directory of YAML that together is one set; every error names its file and line.

The files are YAML 1.2 (core schema), as editors read them: in YAML 1.1, which PyYAML reads by itself, the country ``NO``
is false and the time ``22:00`` is a number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from messages.codec import DecodeError
from messages.policy import Policy

SECTIONS = ("categories", "sources", "caps", "countries", "prices", "tenants")
"""What may be spread over the files, an entry in one of them; any other key stands in one of them as a whole."""

Place = tuple[str | int, ...]
"""The way to something in the set: keys and positions."""


class PolicyFileError(ValueError):
    """A policy file that cannot be used; the message begins with ``file:line: $.key:`` and says what is wrong."""


class _Yaml12(yaml.SafeLoader):
    """The core schema of YAML 1.2, with decimal numbers only."""


_Yaml12.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _decimal(loader: yaml.SafeLoader, node: Any) -> int:
    return int(loader.construct_scalar(node))


# PyYAML's own takes 010 for 8.
_Yaml12.add_constructor("tag:yaml.org,2002:int", _decimal)


class _File(msgspec.Struct):
    """One file: what it says, and the line on which each part of that begins."""

    file: Path
    content: Any
    lines: dict[Place, int]

    def error(self, place: Place, reason: str) -> PolicyFileError:
        """An error at ``place``, or on the way to it where the file says nothing there."""
        known = place
        while known not in self.lines:
            known = known[:-1]
        return PolicyFileError(f"{self.file}:{self.lines[known]}: {_path(place)}: {reason}")


def load_policies(directory: Path) -> Policy:
    """The set of all ``*.yaml`` files of ``directory``: an entry of a section stands in one file, any other key too.

    Raises PolicyFileError.
    """
    files = [_read(file) for file in sorted(directory.glob("*.yaml"))]
    if not files:
        raise PolicyFileError(f"{directory}: no policy file (*.yaml) there")
    whole: dict[str, Any] = {}
    home: dict[Place, _File] = {}
    for file in files:
        for key, value in file.content.items():
            parts: dict[Place, Any] = {(key,): value}
            if key in SECTIONS:
                if not isinstance(value, dict):
                    raise file.error((key,), "expected names with an entry each")
                parts = {(key, name): entry for name, entry in value.items()}
                whole.setdefault(key, {}).update(value)
            else:
                whole[key] = value
            for part in parts:
                if part in home:
                    there = home[part]
                    raise file.error(part, f"{there.file.name}:{there.lines[part]} has it too; keep one")
                home[part] = file
    try:
        return msgspec.convert(whole, Policy)
    except msgspec.ValidationError as error:
        place, reason = _located(whole, error)
        file = home.get(place[:2]) or home.get(place[:1]) or files[0]
        raise file.error(place, reason) from None


def read_value(text: str) -> Any:
    """A value as it would stand in a policy file (``5``, ``1m``, ``[push, in_app]``, ``null``); ValueError for no YAML."""
    try:
        return yaml.load(text, _Yaml12)  # noqa: S506 - it is a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"`{text}` is not YAML: {_said(error)}") from None


def _read(file: Path) -> _File:
    data = file.read_bytes()
    try:
        loader = _Yaml12(data.decode())
        node = loader.get_single_node()
        read = _File(file, None if node is None else loader.construct_document(node), {(): 1})
        if node is None or not isinstance(read.content, dict):
            raise read.error((), "expected keys and values")
        _take_lines(read, (), node)
    except UnicodeDecodeError as error:
        raise PolicyFileError(f"{file}:{_line(data[: error.start])}: $: not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PolicyFileError(f"{file}:{mark.line + 1 if mark else 1}: $: not YAML: {_said(error)}") from None
    except yaml.reader.ReaderError as error:
        before = data.decode()[: error.position].encode()
        raise PolicyFileError(f"{file}:{_line(before)}: $: not YAML: {_said(error)}") from None
    except RecursionError:
        raise PolicyFileError(f"{file}:1: $: nested too deep") from None
    return read


def _line(before: bytes) -> int:
    return before.count(b"\n") + 1


def _take_lines(read: _File, place: Place, node: yaml.Node) -> None:
    """Note the line of everything under ``node``; a key that comes twice is an error, which PyYAML lets pass."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise read.error(place, f"the key `{key.value}` on line {key.start_mark.line + 1} is not text; quote it")
            below = (*place, key.value)
            if below in read.lines:
                first = read.lines[below]
                read.lines[below] = key.start_mark.line + 1
                raise read.error(below, f"line {first} has this key too; keep one")
            read.lines[below] = key.start_mark.line + 1
            _take_lines(read, below, value)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            read.lines[*place, number] = value.start_mark.line + 1
            _take_lines(read, (*place, number), value)


def _located(whole: dict[str, Any], error: msgspec.ValidationError) -> tuple[Place, str]:
    """Where in ``whole`` the error is, and what it says."""
    problem = DecodeError.of(error)
    place: Place = ()
    for name, position in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", problem.path):
        place = _culprit(whole, place, str(error)) if position == "..." else (*place, name or int(position))
    if " - at `key` in `" in str(error):
        return _culprit(whole, place, str(error)), f"the name is not one: {problem.reason}"
    # What the message quotes is often a key of what it is about: a better place.
    for quoted in re.findall("`([^`]+)`", problem.reason):
        below = _walk(_at(whole, place), quoted.partition(":")[0])
        if below is not None:
            return place + below, problem.reason
    return place, problem.reason


def _culprit(whole: dict[str, Any], place: Place, said: str) -> Place:
    """The entry of the mapping at ``place`` that is wrong: the decoder does not name it, but says the same of it alone."""
    for name, entry in _at(whole, place).items():
        try:
            msgspec.convert(_with(whole, place, {name: entry}), Policy)
        except msgspec.ValidationError as error:
            if str(error) == said:
                return (*place, name)
    return place


def _at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _with(value: Any, place: Place, part: Any) -> Any:
    """``value`` with ``part`` at ``place``; a copy of what lies on the way."""
    if not place:
        return part
    copy = value.copy()
    copy[place[0]] = _with(value[place[0]], place[1:], part)
    return copy


def _walk(value: Any, text: str) -> Place | None:
    """The place in ``value`` that the dotted ``text`` names, or None; a name may hold dots itself."""
    if not isinstance(value, dict):
        return None
    if text in value:
        return (text,)
    for name in value:
        if text.startswith(f"{name}.") and (rest := _walk(value[name], text[len(name) + 1 :])) is not None:
            return (name, *rest)
    return None


def _path(place: Place) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


def _said(error: yaml.YAMLError) -> str:
    """What the parser said, in a line."""
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.context, error.problem) if part)
    return str(error).splitlines()[0]
