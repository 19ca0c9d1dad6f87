"""Other editions of the job's code: a copy of its packages with something added."""

from __future__ import annotations

import shutil
from pathlib import Path

from cli.job_control import PACKAGES
from connectors.settings import ROOT

MARKED = """

_decide = decide


def decide(now, policies, state, item):
    out = _decide(now, policies, state, item)
    for record in out.decisions:
        record.detail = "{mark}"
    return out
"""
"""Appended to the core: every decision says so."""

LATER = """

_decide = decide


def decide(now, policies, state, item):
    return _decide(now + {milliseconds}, policies, state, item)
"""
"""Appended to the core: its clock is ahead."""


def copy_of_the_code(root: Path, added_to_the_core: str = "", modules: tuple[Path, ...] = ()) -> Path:
    """Copy the job's packages to ``root``, add to the decision core, and put ``modules`` beside the graph."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (root / "policy" / "core.py").open("a") as core:
        core.write(added_to_the_core)
    for module in modules:
        shutil.copy(module, root / "jobs" / module.name)
    return root
