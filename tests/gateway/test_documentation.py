"""The examples of docs/gateway.md work as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from connectors.settings import ROOT
from tests.gateway.gateway_process import ALL, Gateway

BLOCKS = re.findall(r"```(sh|json)\n(.*?)```", (ROOT / "docs" / "gateway.md").read_text(), re.DOTALL)
EXAMPLES = [(text, BLOCKS[number + 1 :]) for number, (kind, text) in enumerate(BLOCKS) if kind == "sh" and "curl" in text]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl")
@pytest.mark.parametrize(("commands", "following"), EXAMPLES)
def test_an_example_works(gateway: Gateway, commands: str, following: list[tuple[str, str]]) -> None:
    script = commands.replace("curl -sS", "curl -sS -w '\\n%{http_code}\\n'")
    environment = {"HERALD": gateway.url, "KEY": ALL, "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        ["/bin/sh", "-ec", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    lines = ended.stdout.splitlines()
    bodies, statuses = lines[::2], lines[1::2]
    assert len(statuses) == commands.count("curl -sS")
    assert set(statuses) <= {"200", "202", "207", "404"}
    assert "404" not in statuses or '/v1/users/ada"' in commands, "only a user that no view knows is not found"
    if following and following[0][0] == "json":
        assert json.loads(bodies[0]) == json.loads(following[0][1])
