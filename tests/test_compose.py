"""docker-compose.yml and Dockerfile: there is no daemon to run them, so what they refer to is checked to be there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pyflink
import pytest
import yaml

from cli.main import main
from connectors.settings import ROOT, load_settings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def words(service: dict[str, Any]) -> list[str]:
    """The words of a service's command; those of a shell's script among them."""
    return " ".join(service["command"]).replace('"', "").split()


def test_the_compose_file_is_valid() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=ROOT, check=True, capture_output=True)


def test_every_service_of_ours_has_a_command() -> None:
    assert len(OURS) >= 8
    assert all(service["command"] for service in OURS.values())


@pytest.mark.parametrize("name", OURS)
def test_modules_and_their_options_exist(name: str) -> None:
    command = words(OURS[name])
    for index in [index for index, word in enumerate(command) if word == "-m"]:
        module = command[index + 1]
        assert find_spec(module) is not None, module
        usage = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        given = [word for word in command[index + 2 :] if word.startswith("--")]
        assert [option for option in given if option not in usage.stdout] == []


@pytest.mark.parametrize("name", OURS)
def test_herald_commands_exist(name: str) -> None:
    command = words(OURS[name])
    for index in [index for index, word in enumerate(command) if word == "herald"]:
        found: click.Command = main
        for word in command[index + 1 :]:
            if not isinstance(found, click.Group):
                break
            assert word in found.commands, f"herald {word}"
            found = found.commands[word]


@pytest.mark.parametrize("name", OURS)
def test_flink_scripts_and_settings_exist(name: str) -> None:
    command = words(OURS[name])
    scripts = [word for word in command if word.startswith("/opt/flink/bin/")]
    assert [script for script in scripts if not (Path(pyflink.__path__[0]) / "bin" / Path(script).name).exists()] == []
    if any(script.endswith("/jobmanager.sh") for script in scripts):
        assert [word for word in command if re.match(r"-D.", word)] == [], "jobmanager.sh wants a blank after -D"
    known = leaves(yaml.safe_load((ROOT / "flink-conf" / "config.yaml").read_text(encoding="utf-8")))
    known |= {"execution.checkpointing.dir", "execution.checkpointing.savepoint-dir"}
    overridden = {match[1] for match in re.finditer(r"-D ?([a-z][\w.-]+)=", " ".join(command))}
    assert overridden <= known


def leaves(tree: dict[str, Any], above: str = "") -> set[str]:
    return {
        leaf
        for key, value in tree.items()
        for leaf in (leaves(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}"})
    }


def test_every_job_module_that_is_submitted_exists() -> None:
    command = words(SERVICES["job"])
    assert find_spec(command[command.index("-pym") + 1]) is not None


def test_every_mount_is_a_declared_volume_or_a_file_of_the_repository() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        assert set(service.get("depends_on", {})) <= SERVICES.keys()


def test_what_is_published_is_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_no_secret_is_written_down() -> None:
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            assert not re.search(r"PASSWORD|SECRET|TOKEN|API_?KEY", name), name
    assert all("file" in secret or "environment" in secret for secret in COMPOSE["secrets"].values())


def test_everything_that_the_image_copies_exists() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    assert len(sources) > 10
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_settings_file_of_the_image_is_one_and_fits_the_services() -> None:
    path = re.search(r"HERALD_CONFIG=/opt/herald/(\S+)", DOCKERFILE)
    assert path
    settings = load_settings(ROOT / path[1], environment={})
    assert settings.kafka.bootstrap.split(":")[0] in SERVICES
    assert settings.redis.url.split("/")[2].split(":")[0] in SERVICES
    assert settings.job.rest.split("/")[2].split(":")[0] in SERVICES
    assert settings.gateway.keys_file.removeprefix("/run/secrets/") in COMPOSE["secrets"]
    assert {f"adapter-{provider}" for provider in settings.job.providers} <= SERVICES.keys()


def test_the_images_are_of_the_versions_that_are_tested() -> None:
    pom = ElementTree.parse(ROOT / "cli" / "stack" / "pom.xml")
    kafka = pom.findtext(".//{*}kafka.version")
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    flink = project["project"]["optional-dependencies"]["jobs"][0].removeprefix("apache-flink==")
    assert f"FROM flink:{flink}-java17 AS flink" in DOCKERFILE
