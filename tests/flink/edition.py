"""Another edition of the job's code: a copy of its packages with something added to the decision core."""

from __future__ import annotations

import shutil
from pathlib import Path

from cli.job_control import PACKAGES
from connectors.settings import ROOT

LATER = """

_decide = decide


def decide(now, policies, state, item):
    return _decide(now + {milliseconds}, policies, state, item)
"""
"""The core's clock is ahead."""


def copy_of_the_code(root: Path, added_to_the_core: str) -> Path:
    """Copy the job's packages to ``root``, with ``added_to_the_core`` at the end of the core's module."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (root / "policy" / "core.py").open("a") as core:
        core.write(added_to_the_core)
    return root
