"""Commands applied to a profile: in order, each once, a repeat changing nothing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from messages.codec import encode_json
from messages.profile import (
    MAX_CONSENTS,
    MAX_ENDPOINTS,
    MAX_PREFERENCES,
    MAX_SUBSCRIPTIONS,
    AddEndpoint,
    Consent,
    ConsentInput,
    Endpoint,
    EndpointInput,
    GiveConsent,
    Preference,
    Profile,
    ProfileChange,
    RemoveEndpoint,
    ReplaceProfile,
    SetPreferences,
    SetQuietHours,
    Subscribe,
    SuppressEndpoint,
    UnsuppressEndpoint,
    WithdrawConsent,
)
from messages.windows import Window, WindowInput

REMEMBERED_COMMANDS = 16
"""How many command ids a profile remembers, so that a producer's repeat of a recent command does nothing."""

MAX_PROFILE_BYTES = 256 * 1024
"""How large a command may make a profile, in JSON: it travels in one record, and its locale in every delivery."""


class ChangeRefused(ValueError):
    """A command that cannot be applied; ``reason`` is a stable code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def change_profile(now: int, profile: Profile | None, change: ProfileChange, position: tuple[int, int]) -> Profile | None:
    """The profile after ``change``, or None where the change is a repeat. The profile given is left as it is.

    ``position`` is the partition and offset of the command: one at or before the last applied of the same partition has
    been applied already (a user's commands share a partition, so that is exact over any replay of the topic).
    Raises ChangeRefused.
    """
    if profile is None:
        profile = Profile()
    last = profile.position
    if (last is not None and last[0] == position[0] and position[1] <= last[1]) or change.id in profile.applied:
        return None
    changed = _applied(now, profile, change)
    if _may_add(profile, change):
        size = len(encode_json(changed))
        # Suppressions may have made it too large: what makes it smaller again is no harm.
        if size > MAX_PROFILE_BYTES and size > len(encode_json(profile)):
            raise ChangeRefused(
                "profile_too_large", f"a profile has at most {MAX_PROFILE_BYTES} bytes, this would be {size}"
            )
    return msgspec.structs.replace(
        changed,
        version=profile.version + 1,
        applied=[*profile.applied, change.id][-REMEMBERED_COMMANDS:],
        position=position,
    )


def _may_add(profile: Profile, change: ProfileChange) -> bool:
    """Whether the bound concerns a change: it must never stand in the way of a suppression, a withdrawal, or a leaving."""
    if isinstance(change, Subscribe):
        return change.subscribed or change.topic not in profile.subscriptions
    return isinstance(change, ReplaceProfile | SetPreferences | AddEndpoint | SetQuietHours | GiveConsent)


def _applied(now: int, profile: Profile, change: ProfileChange) -> Profile:
    match change:
        case ReplaceProfile():
            changed = _replaced(now, profile, change)
        case SetPreferences():
            changed = msgspec.structs.replace(profile, preferences=_preferences(profile.preferences, change.preferences))
        case AddEndpoint():
            endpoint = _registered(now, profile, change.endpoint)
            others = [known for known in profile.endpoints if known.id != endpoint.id]
            changed = msgspec.structs.replace(profile, endpoints=_bounded([*others, endpoint]))
        case RemoveEndpoint():
            # A suppressed one stays, unusable: removed and added again, a number that said STOP would be usable.
            changed = _endpoints(profile, change.endpoint_id, lambda known: known if known.suppressed else None)
        case SuppressEndpoint():
            changed = _endpoints(profile, change.endpoint_id, lambda endpoint: _suppressed(endpoint, change))
        case UnsuppressEndpoint():
            changed = _endpoints(profile, change.endpoint_id, lambda known: msgspec.structs.replace(known, suppressed=None))
        case SetQuietHours():
            changed = msgspec.structs.replace(profile, quiet_hours=_windows(change.quiet_hours))
        case Subscribe():
            changed = msgspec.structs.replace(profile, subscriptions=_subscriptions(profile.subscriptions, change))
        case GiveConsent():
            changed = msgspec.structs.replace(profile, consents=_consents(profile.consents, [change.consent]))
        case WithdrawConsent():
            withdrawn = _scope(change)
            kept = {scope: consent for scope, consent in profile.consents.items() if scope != withdrawn}
            changed = msgspec.structs.replace(profile, consents=kept)
    return changed


def _replaced(now: int, profile: Profile, change: ReplaceProfile) -> Profile:
    if change.version is not None and profile.replaced_with is not None and change.version <= profile.replaced_with:
        raise ChangeRefused(
            "old_version", f"version {change.version} is not above {profile.replaced_with}, the last one written"
        )
    new = change.profile
    named = {endpoint.id for endpoint in new.endpoints}
    suppressed = [known for known in profile.endpoints if known.suppressed and known.id not in named]
    return msgspec.structs.replace(
        profile,
        country=new.country,
        time_zone=new.time_zone,
        locale=new.locale,
        endpoints=_bounded([*suppressed, *(_registered(now, profile, endpoint) for endpoint in new.endpoints)]),
        preferences=_preferences({}, new.preferences),
        quiet_hours=_windows(new.quiet_hours),
        subscriptions=new.subscriptions,
        consents=_consents({}, new.consents),
        replaced_with=change.version if change.version is not None else profile.replaced_with,
    )


def _registered(now: int, profile: Profile, new: EndpointInput) -> Endpoint:
    """A new registration; the same address at the same id keeps its age and its suppression."""
    for known in profile.endpoints:
        if known.id == new.id and known.address == new.address and known.provider == new.provider:
            return msgspec.structs.replace(known, app=new.app)
    return Endpoint(id=new.id, provider=new.provider, address=new.address, app=new.app, registered_at=now)


def _bounded(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Past the bound the oldest dead push endpoints are forgotten: one that comes back costs an attempt.

    Everything else that is suppressed (a bounce, a complaint, a STOP) is never forgotten. Raises ChangeRefused.
    """
    surplus = len(endpoints) - MAX_ENDPOINTS
    if surplus <= 0:
        return endpoints
    dead = [known.id for known in endpoints if known.suppressed and known.channel in ("push", "web_push")][:surplus]
    if len(dead) < surplus:
        raise ChangeRefused("too_many_endpoints", f"a profile holds at most {MAX_ENDPOINTS}, the suppressed ones included")
    return [known for known in endpoints if known.id not in dead]


def _suppressed(endpoint: Endpoint, change: SuppressEndpoint) -> Endpoint:
    if change.registered_before is not None and endpoint.registered_at >= change.registered_before:
        return endpoint
    return msgspec.structs.replace(endpoint, suppressed=change.reason)


def _scope(named: Preference | ConsentInput | WithdrawConsent) -> str:
    return f"{named.category}/{named.channel}"


def _preferences(known: dict[str, bool], new: list[Preference]) -> dict[str, bool]:
    merged = known | {_scope(choice): choice.allow for choice in new}
    if len(merged) > MAX_PREFERENCES:
        raise ChangeRefused("too_many_preferences", f"a profile holds at most {MAX_PREFERENCES}")
    return merged


def _subscriptions(known: dict[str, bool], change: Subscribe) -> dict[str, bool]:
    # A topic that was left stays in it, denied: the events of a tag may go to those who never chose, too.
    merged = known | {change.topic: change.subscribed}
    if len(merged) > MAX_SUBSCRIPTIONS:
        raise ChangeRefused("too_many_subscriptions", f"a profile holds at most {MAX_SUBSCRIPTIONS}, those left included")
    return merged


def _windows(new: tuple[WindowInput, ...]) -> tuple[Window, ...]:
    return tuple(Window(start=window.start, end=window.end, days=window.days) for window in new)


def _consents(known: dict[str, Consent], new: list[ConsentInput]) -> dict[str, Consent]:
    merged = known | {
        _scope(given): Consent(at=given.at, where=given.where, text_version=given.text_version) for given in new
    }
    if len(merged) > MAX_CONSENTS:
        raise ChangeRefused("too_many_consents", f"a profile holds at most {MAX_CONSENTS}")
    return merged


def _endpoints(profile: Profile, endpoint_id: str, change: Callable[[Endpoint], Endpoint | None]) -> Profile:
    kept = [change(endpoint) if endpoint.id == endpoint_id else endpoint for endpoint in profile.endpoints]
    return msgspec.structs.replace(profile, endpoints=[endpoint for endpoint in kept if endpoint is not None])
