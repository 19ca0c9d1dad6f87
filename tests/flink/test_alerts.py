"""The alerts ask for what a real cluster reports."""

from __future__ import annotations

import re
from itertools import chain

import pytest
import yaml

from connectors.settings import ROOT
from messages.words import LANES
from tests.flink import metrics
from tests.flink.cluster import PATIENCE, Cluster
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)

RULES = [
    rule for group in yaml.safe_load((ROOT / "flink-conf" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
MATCHER = re.compile(r'(\w+)(=~?)"([^"]*)"')


def selectors() -> set[tuple[str, str]]:
    """Every metric in an expression, with the matchers in its braces."""
    return {found for rule in RULES for found in re.findall(r"(flink_\w+)(?:\{([^}]*)\})?", rule["expr"])}


def matches(labels: dict[str, str], matchers: str) -> bool:
    for label, operator, text in MATCHER.findall(matchers):
        actual = labels.get(label, "")
        if not (actual == text if operator == "=" else re.fullmatch(text, actual)):
            return False
    return True


def test_every_metric_of_an_alert_is_there(cluster: Cluster, crowd: list[str]) -> None:
    cluster.running()
    for lane in LANES:
        origin = cluster.notify(lane, "codes", crowd[:1], f"alert-{lane}")[0]
        until(lambda: cluster.soon.refresh().outcomes(crowd[0], origin), PATIENCE)  # noqa: B023 - asked at once
    first = cluster.settings.stack.metrics_port
    ports = range(first, first + 1 + cluster.settings.stack.taskmanagers)

    def missing() -> set[tuple[str, str]]:
        reported = [(name, labels) for name, labels, _ in chain.from_iterable(metrics.samples(port) for port in ports)]
        return {
            (name, matchers)
            for name, matchers in selectors()
            if not any(found == name and matches(labels, matchers) for found, labels in reported)
        }

    try:
        until(lambda: not missing(), 60)
    except AssertionError:
        assert missing() == set(), "metrics of alerts.yaml that nobody reports"
        raise


def test_every_alert_is_in_the_manual() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in manual] == []
