"""What the demo calls a failure, apart from the balance."""

from __future__ import annotations

from cli.demo.cast import CAST
from cli.demo.run import DEFECT, failures_of
from policy.reasons import REASONS

ALL = set(REASONS) - {DEFECT}
AS_PROMISED = {member.user: set(member.reasons) for member in CAST}


def test_every_reason_seen_and_every_promise_kept_is_no_failure() -> None:
    assert failures_of(ALL | {"sent"}, AS_PROMISED) == []


def test_each_reason_that_was_not_seen_is_named() -> None:
    for reason in ALL:
        assert failures_of(ALL - {reason}, AS_PROMISED) == [f"the reason {reason} was not seen"]


def test_a_defect_of_the_core_is_a_failure() -> None:
    (failure,) = failures_of(ALL | {DEFECT}, AS_PROMISED)
    assert failure.startswith(f"{DEFECT}: ")


def test_of_the_cast_is_named_who_did_not_meet_what() -> None:
    (failure,) = failures_of(ALL, AS_PROMISED | {"ugo": {"sent", "escalation"}})
    assert failure.startswith("ugo was to meet cancelled: ")


def test_nothing_recorded_of_somebody_is_a_failure_too() -> None:
    recorded = {user: reasons for user, reasons in AS_PROMISED.items() if user != "dora"}
    (failure,) = failures_of(ALL, recorded)
    assert failure.startswith("dora was to meet category_not_allowed: ")
