"""Flink's own SQL client on a running stack, with a table over every topic."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from cli.stack.flink_programs import CONFIGURATION, JARS, flink_environment, flink_home
from cli.stack.program import StackError, get_json
from cli.stack.stack_settings import absolute, port_of
from connectors.settings import KafkaSettings, Settings
from messages.topics import DELIVERIES

SCRIPTS = CONFIGURATION / "sql"

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = File
appender.file.name = File
appender.file.type = FILE
appender.file.fileName = ${sys:log.file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c - %m%n
"""


def fill(text: str, kafka: KafkaSettings, follow: bool) -> str:
    """``text`` with what stands in ``${...}`` filled in; StackError for a name that is not known."""
    known = {
        "bootstrap": kafka.bootstrap,
        "prefix": kafka.prefix,
        "deliveries": ";".join(kafka.prefix + topic for topic in DELIVERIES.values()),
        "bounded": "unbounded" if follow else "latest-offset",
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise StackError(f"the SQL has ${{{match[1]}}}, which is none of {', '.join(known)}")
        return known[match[1]].replace("'", "''")

    return re.sub(r"\$\{(\w*)\}", value, text)


class SqlClient:
    """How to call ``sql-client.sh`` on the stack that runs with ``settings``.

    Jobs run on the stack's cluster where a slot is free, else, ``local``, in the client's own process: the decision job
    may have all slots, and a query that waits for one would wait for ever.
    """

    def __init__(self, settings: Settings, file: Path | None = None, *, follow: bool = False, local: bool = False) -> None:
        self._settings = settings
        self._stack = absolute(settings.stack.directory)
        self._directory = self._stack / "sql"
        self._file = file
        self._follow = follow
        self.local = local or not get_json(f"{settings.job.rest}/overview")["slots-available"]

    def prepare(self) -> None:
        """Write what the client reads; StackError where the stack has no Flink, or SQL a name that is not known."""
        home = flink_home(self._stack)
        gateways = sorted(JARS.glob("flink-sql-gateway-*.jar"))
        if not home.exists():
            raise StackError(f"no Flink in {self._stack}: start the stack with `herald up`")
        if not gateways:
            raise StackError(f"no jar of Flink's SQL gateway in {JARS}: run `make jars`")
        # The client's script looks for it there; PyFlink's distribution lacks it.
        for jar in gateways:
            if not (home / "opt" / jar.name).exists():
                shutil.copy2(jar, home / "opt" / jar.name)
        configuration = self._directory / "conf"
        configuration.mkdir(parents=True, exist_ok=True)
        (configuration / "config.yaml").write_text(yaml.safe_dump(self._configuration(home), width=10_000), encoding="utf-8")
        (configuration / "log4j-cli.properties").write_text(_LOGGING, encoding="utf-8")
        kafka = self._settings.kafka
        texts = [(SCRIPTS / name).read_text(encoding="utf-8") for name in ("tables.sql", "views.sql")]
        (self._directory / "init.sql").write_text(fill("\n".join(texts), kafka, self._follow), encoding="utf-8")
        if self._file is not None:
            text = fill(self._file.read_text(encoding="utf-8"), kafka, self._follow)
            (self._directory / "file.sql").write_text(text, encoding="utf-8")

    def command(self) -> list[str]:
        """The command line."""
        options = {
            "execution.target": "local" if self.local else "remote",
            "execution.runtime-mode": "streaming" if self._follow else "batch",
            "sql-client.execution.result-mode": "tableau",
            # Return when it is written.
            "table.dml-sync": "true",
        }
        return [
            str(flink_home(self._stack) / "bin" / "sql-client.sh"),
            *(part for key, value in options.items() for part in ("-D", f"{key}={value}")),
            *("--init", str(self._directory / "init.sql"), "--history", str(self._directory / "history")),
            *([] if self._file is None else ["--file", str(self._directory / "file.sql")]),
        ]

    def environment(self) -> Mapping[str, str]:
        """The environment for the command line."""
        return os.environ | flink_environment(self._stack) | {"FLINK_CONF_DIR": str(self._directory / "conf")}

    def _configuration(self, home: Path) -> dict[str, object]:
        # Not the cluster's: the client would listen on the cluster's port, and a local job would want its memory.
        cluster = yaml.safe_load((home / "conf" / "config.yaml").read_text(encoding="utf-8"))
        own = {key: value for key, value in cluster.items() if key.startswith("env.java.opts")}
        if not self.local:
            own |= {"rest.address": "127.0.0.1", "rest.port": port_of(self._settings.job.rest)}
        return {**own, "parallelism.default": 1}
