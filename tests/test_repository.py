"""What holds for the repository as a whole: names, prerequisites, what the set-up files refer to."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from setuptools import find_packages

from connectors.settings import ROOT

PACKAGES = ("benchmarks", "cli", "connectors", "emulators", "jobs", "messages", "policy", "tests", "udfs")
OURS = "herald-notifications"

# Only ever imported as messages.profile; what it hides is a profiler that nothing here uses.
ALLOWED = {"messages/profile.py"}


def modules() -> list[Path]:
    return [file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if not file.stem.startswith("__")]


def test_no_module_is_named_as_one_of_the_standard_library_or_of_a_package() -> None:
    """A script's folder comes first on the path: a module called redis.py there hides the package of that name."""
    installed = {name for name, owners in packages_distributions().items() if set(owners) != {OURS}}
    taken = set(sys.stdlib_module_names) | (installed - set(PACKAGES))
    shadowing = {str(file.relative_to(ROOT)) for file in modules() if file.stem in taken}
    assert shadowing - ALLOWED == set()


def test_the_package_list_of_setup_is_complete() -> None:
    shipped = {package for package in PACKAGES if package not in ("benchmarks", "tests")}
    found = {package for package in find_packages(str(ROOT)) if package.split(".")[0] in shipped}
    listed = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(listed) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert found - words == set()


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory with the prerequisites and the few commands that the check itself uses, to be the whole PATH."""
    for tool in ("sh", "sed", "grep", "java", "javac", "mvn", "make"):
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / tool).symlink_to(found)
    (tmp_path / "python3.11").symlink_to(Path(sysconfig.get_config_var("BINDIR")) / "python3.11")
    return tmp_path


def prerequisites(tools: Path) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    run = subprocess.run(
        ["sh", "cli/prerequisites.sh"],
        cwd=ROOT,
        env={**environment, "PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stderr


def test_with_all_prerequisites_nothing_is_said(tools: Path) -> None:
    assert prerequisites(tools) == (0, "")


@pytest.mark.parametrize(
    ("tool", "wanted"),
    [
        ("mvn", "missing: Maven 3.8 or newer"),
        ("javac", "missing: JDK 17"),
        ("make", "missing: GNU make 4 or newer"),
        ("python3.11", "missing: Python 3.11"),
    ],
)
def test_a_missing_prerequisite_is_named_with_its_version(tools: Path, tool: str, wanted: str) -> None:
    (tools / tool).unlink()
    code, message = prerequisites(tools)
    assert code == 1
    assert wanted in message
    assert message.count("missing:") == 1


@pytest.mark.parametrize(
    ("tool", "prints", "wanted"),
    [
        ("java", 'openjdk version "11.0.2" 2019-01-15', "missing: JDK 17\n         java on PATH is version 11"),
        ("make", "bmake 2020", "missing: GNU make 4 or newer"),
        ("python3.11", "Python 3.9.1", "missing: Python 3.11"),
    ],
)
def test_a_wrong_version_is_named(tools: Path, tool: str, prints: str, wanted: str) -> None:
    (tools / tool).unlink()
    (tools / tool).write_text(f"#!/bin/sh\necho '{prints}'\nexit 1\n", encoding="utf-8")
    (tools / tool).chmod(0o755)
    code, message = prerequisites(tools)
    assert code == 1
    assert wanted in message


def test_make_names_what_is_missing_before_it_installs_anything(tools: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "cli").mkdir(parents=True)
    for file in ("Makefile", "requirements.lock", "setup.py", "pyproject.toml", "cli/prerequisites.sh"):
        shutil.copy2(ROOT / file, clone / file)
    (tools / "mvn").unlink()
    for tool in ("find", "touch", "rm"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    for target in ("demo", "test"):
        run = subprocess.run(
            ["make", target], cwd=clone, env={"PATH": str(tools)}, capture_output=True, text=True, check=False
        )
        assert run.returncode != 0
        assert "missing: Maven 3.8 or newer" in run.stderr
        assert not (clone / ".venv").exists()
        assert not (clone / "var").exists()
