"""A job without a savepoint where profiles exist: refused, and bootstrapped so that nobody is decided too early."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from cli.job_control import JobError
from messages.profile import decode_profile
from messages.topics import CHANGES, PROFILES
from tests.flink.cluster import HUSH, HUSHED, PATIENCE, Cluster, command, policy
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)


class Bootstrapped(NamedTuple):
    """How the start without savepoint was refused, and the cluster with the job that was bootstrapped after."""

    cluster: Cluster
    refusal: str
    plain: str
    late: str


@pytest.fixture(scope="module")
def bootstrapped(cluster: Cluster, crowd: list[str]) -> Bootstrapped:
    """A stopped job whose savepoint is lost; commands and events come before it is back."""
    control = cluster.control(policy(30), cluster.settings.job.providers)
    if control.running() is not None:
        control.stop()
    with pytest.raises(JobError) as refused:
        control.start()

    plain, late = crowd[1], crowd[2]
    spoken = [record.value for record in cluster.log.refresh().records[PROFILES] if record.key == f"default/{HUSHED}"]
    old = decode_profile(spoken[-1]).applied[-1]
    cluster.sender.send(
        CHANGES, [(f"default/{late}", command("late", HUSH)), (f"default/{HUSHED}", command(old, {"allow": True}))]
    )
    cluster.notify("background", "news", [HUSHED, late, plain], "meanwhile")
    control.start(control.bootstrap())
    until(lambda: all(of(cluster, user) for user in (HUSHED, late, plain)), PATIENCE)
    return Bootstrapped(cluster, str(refused.value), plain, late)


def of(cluster: Cluster, user: str) -> list[tuple[str, str | None]]:
    """What became of the event that came while no job ran."""
    records = [record for record in cluster.log.refresh().decisions[user] if record.event_id.startswith("meanwhile-")]
    return [(record.outcome, record.reason) for record in records]


def test_the_refusal_says_what_to_do(bootstrapped: Bootstrapped) -> None:
    assert re.search(r"holds profiles and the job has no savepoint.*herald job bootstrap", bootstrapped.refusal)


def test_the_first_decisions_know_who_has_opted_out(bootstrapped: Bootstrapped) -> None:
    assert of(bootstrapped.cluster, HUSHED) == [("suppressed", "opted_out")]
    assert of(bootstrapped.cluster, bootstrapped.plain) == [("sent", None)]


def test_a_command_sent_in_between_is_not_lost(bootstrapped: Bootstrapped) -> None:
    assert of(bootstrapped.cluster, bootstrapped.late) == [("suppressed", "opted_out")]
    assert preferences(bootstrapped.cluster, bootstrapped.late)[-1] == {"news/*": False}


def test_a_repeated_command_does_nothing(bootstrapped: Bootstrapped) -> None:
    assert preferences(bootstrapped.cluster, HUSHED) == [{"news/*": False}]


def test_profiles_are_not_written_again(bootstrapped: Bootstrapped) -> None:
    assert len(preferences(bootstrapped.cluster, bootstrapped.plain)) == 1


def preferences(cluster: Cluster, user: str) -> list[dict[str, bool]]:
    """Those of every version of the user's profile that was written."""
    written = [record for record in cluster.log.records[PROFILES] if record.key == f"default/{user}"]
    return [decode_profile(record.value).preferences for record in written]
