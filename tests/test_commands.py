"""The files that the command and the stack write: settings, API keys."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import main
from cli.session import Session
from cli.stack.stack import all_programs
from cli.stack.stack_settings import local_settings, with_free_ports, write_settings
from cli.stack.worker_programs import api_key_file, write_api_key
from connectors.gateway.keys import hash_key, read_keys
from connectors.settings import DEFAULT_FILE, Settings, load_settings


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = local_settings(with_free_ports(Settings()))
    write_settings(settings, tmp_path / "herald.yaml")
    assert load_settings(tmp_path / "herald.yaml") == settings


def test_every_port_of_the_packaged_settings_is_taken_from_the_environment() -> None:
    assert load_settings(DEFAULT_FILE, environment={}) == Settings()
    names = re.findall(r"\$\{(HERALD_\w+_PORT):-", DEFAULT_FILE.read_text(encoding="utf-8"))
    given = {name: str(20_000 + number) for number, name in enumerate(names)}
    given |= {"HERALD_KAFKA": "127.0.0.1:1", "HERALD_REDIS": "redis://127.0.0.1:2/0", "HERALD_FLINK": "http://127.0.0.1:3"}
    settings, default = load_settings(DEFAULT_FILE, environment=given), Settings()
    ports = [program.ports for program in all_programs(local_settings(settings))]
    defaults = [program.ports for program in all_programs(local_settings(default))]
    assert not {port for own in ports for port in own} & {port for own in defaults for port in own}


def test_a_named_file_is_taken_and_not_the_running_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HERALD_CONFIG", raising=False)
    settings = with_free_ports(Settings())
    write_settings(settings, tmp_path / "herald.yaml")
    assert Session(tmp_path / "herald.yaml", None).settings() == settings
    monkeypatch.setenv("HERALD_CONFIG", str(tmp_path / "herald.yaml"))
    assert Session(None, None).settings() == settings


def test_the_api_key_is_private_and_stays(tmp_path: Path) -> None:
    keys_file = tmp_path / "gateway-keys.json"
    write_api_key(tmp_path, keys_file)
    clear = api_key_file(tmp_path)
    assert stat.S_IMODE(clear.stat().st_mode) == 0o600
    key = clear.read_text(encoding="utf-8")
    assert read_keys(keys_file)[hash_key(key)].tenant == "default"
    assert key not in keys_file.read_text(encoding="utf-8")

    # As after a death between the two files.
    keys_file.unlink()
    write_api_key(tmp_path, keys_file)
    assert clear.read_text(encoding="utf-8") == key
    assert set(read_keys(keys_file)) == {hash_key(key)}


def test_keys_are_added_and_only_their_hashes_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "gateway.json"

    def add(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["keys", "add", *arguments, "--file", str(file)])
        return result.exit_code, result.stdout.strip(), result.stderr

    code, first, _ = add("shop")
    assert code == 0
    code, second, _ = add("billing", "--tenant", "acme", "--source", "invoices", "--source", "dunning", "--scope", "events")
    assert code == 0
    keys = read_keys(file)
    assert keys[hash_key(first)].scopes == ["events", "profiles", "inbox"]
    entry = keys[hash_key(second)]
    assert (entry.tenant, entry.sources, entry.scopes) == ("acme", ["invoices", "dunning"], ["events"])
    assert first not in file.read_text(encoding="utf-8")

    before = file.read_bytes()
    assert add("shop")[0] == 1
    code, _, message = add("other", "--tenant", "a b")
    assert code == 1
    assert "tenant: " in message
    assert file.read_bytes() == before


def test_an_expected_error_is_a_message_and_not_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "herald.yaml"
    file.write_text("kafka: {bootstrapp: x}\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["--config", str(file), "topics", "list"])
    assert result.exit_code == 1
    assert "herald:" in result.stderr
    assert "bootstrapp" in result.stderr
    assert "Traceback" not in result.output
