"""Another edition of the job's code: a copy of its packages with another decision core."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from cli.job_control import PACKAGES
from connectors.settings import ROOT

LATER = """

_decide = decide


def decide(now, policies, state, item):
    return _decide(now + {milliseconds}, policies, state, item)
"""
"""The core's clock is ahead."""


def copy_of_the_code(root: Path, edit: Callable[[str], str]) -> Path:
    """Copy the job's packages to ``root``, with the text of the core's module as ``edit`` makes it."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    core = root / "policy" / "core.py"
    before = core.read_text()
    core.write_text(edit(before))
    assert core.read_text() != before, "nothing to edit: the core has changed"
    return root
