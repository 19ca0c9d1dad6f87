"""Rules 7 to 12: what becomes of a notification on each of its channels, and so of the notification."""

from __future__ import annotations

from collections.abc import Sequence

from messages.profile import Endpoint
from messages.words import Channel
from policy import caps, digests, supersede
from policy.choice import cheapest, deadline_of
from policy.emission import emit
from policy.endpoints import usable
from policy.local_time import day_name, next_day
from policy.policies import CapRule, CategoryRules, Limit
from policy.preferences import resolve
from policy.quiet_hours import end_of_quiet, is_quiet, next_quiet, spread_out, union, week_of
from policy.state import Part
from policy.step import SENT, Notification, Step, Verdicts
from policy.throttle import refill, wait_for_token

WAITS = "escalation"
"""Why a ladder waits: for an answer to what was sent."""

CAP = "cap:"
"""What the name of a cap's queue begins with; a bucket's is its own name."""

# The rule by which the last channel fell is the notification's reason; within rule 8 the more telling one.
_RULE_ORDER = {
    word: place
    for place, word in enumerate(
        (
            "opted_out",
            "no_endpoint",
            "no_provider",
            "endpoint_suppressed",
            "quiet_hours",
            "throttled",
            "capped",
            "over_budget",
            "not_chosen",
        )
    )
}


def judge(step: Step, notification: Notification) -> None:
    """Decide by rules 7 to 13, each channel by itself; a ladder climbs until a rung goes out or waits."""
    category = notification.category
    assert category is not None
    channels = _possible(notification, category)
    if not channels:
        step.end(notification, "rejected", "no_channel")
    elif not _on_ladder(notification, category):
        verdicts = _look_at(step, notification, category, channels)
        if category.choice == "cheapest":
            _choose(step, notification, category, verdicts)
        _conclude(step, notification, category, verdicts)
    else:
        _climb(step, notification, category, channels)


def _on_ladder(notification: Notification, category: CategoryRules) -> bool:
    """Whether the notification climbs; the rest of a rung, and a digest, do not."""
    if notification.part is None:
        return category.choice == "escalation" and not notification.closing
    return notification.part == "ladder"


def _possible(notification: Notification, category: CategoryRules) -> Sequence[Channel]:
    """The channels that the category and the event provide for, as far as this part of it is about them."""
    channels = _provided(notification, category)
    if notification.channels is not None:
        channels = [channel for channel in channels if channel in notification.channels]
    return channels


def _provided(notification: Notification, category: CategoryRules) -> Sequence[Channel]:
    data = notification.event.data
    channels: Sequence[Channel] = category.channels
    if data.channels is not None:
        channels = [channel for channel in channels if channel in data.channels]
    if data.template is None:
        content = data.content or {}
        channels = [channel for channel in channels if channel in content]
    return channels


def _climb(step: Step, notification: Notification, category: CategoryRules, channels: Sequence[Channel]) -> None:
    """Take the first rung, from the notification's own on, on which something goes out or waits."""
    words: dict[str, str] = {}
    while notification.rung < len(category.rungs):
        rung = category.rungs[notification.rung]
        mine = [channel for channel in channels if channel in rung.channels]
        verdicts = _look_at(step, notification, category, mine)
        verdicts.words = words | verdicts.words
        if verdicts.going or verdicts.waiting or verdicts.collected:
            return _conclude(step, notification, category, verdicts)
        words = verdicts.words
        notification.rung += 1
    return _conclude(step, notification, category, Verdicts(words=words))


def _look_at(step: Step, notification: Notification, category: CategoryRules, channels: Sequence[Channel]) -> Verdicts:
    """A word for every channel: ``sent``, or the rule by which it does not go out now."""
    verdicts = Verdicts()
    words = verdicts.words
    reachable: list[tuple[Channel, list[Endpoint]]] = []
    for channel in channels:
        if endpoints := _reached_by(step, notification, category, channel, verdicts):
            reachable.append((channel, endpoints))
    collapses = notification.event.data.collapse_key is not None and step.state.pending
    if reachable and collapses and not supersede.older(step, notification):
        # A newer one waits: this one would be shown after it.
        words.update(dict.fromkeys((channel for channel, _ in reachable), "superseded"))
        return verdicts
    units: dict[str, int] = {}
    for channel, endpoints in reachable:  # it may grow
        if category.choice == "cheapest":
            units = {}  # only one of them will go out
        words[channel] = word = _when(step, notification, category, channel, verdicts, units)
        if word == SENT:
            verdicts.going.append((channel, endpoints))
        elif word == "quiet_hours" and not verdicts.stand_in and _inbox_stands_in(notification, category):
            # In quiet hours the inbox takes what would have disturbed, where the user allows it there.
            verdicts.stand_in = channel
            if inbox := _reached_by(step, notification, category, "in_app", verdicts):
                reachable.append(("in_app", inbox))
    if verdicts.stand_in is not None:
        # What the inbox does not take now waits, or is collected, in its own place.
        if "in_app" in verdicts.waiting:
            verdicts.waiting[verdicts.stand_in] = verdicts.waiting.pop("in_app")
        if "in_app" in verdicts.collected:
            verdicts.collected[verdicts.collected.index("in_app")] = verdicts.stand_in
    return verdicts


def _inbox_stands_in(notification: Notification, category: CategoryRules) -> bool:
    """Whether the inbox is a stand-in: once a notification, and not where it is one of the channels anyway."""
    return (
        category.quiet_hours == "in_app" and notification.part is None and "in_app" not in _provided(notification, category)
    )


def _reached_by(
    step: Step, notification: Notification, category: CategoryRules, channel: Channel, verdicts: Verdicts
) -> list[Endpoint]:
    """Rules 7 and 8: the endpoints to send to; where there are none, the reason is noted."""
    profile, policies = step.profile, step.policies
    tenant = policies.tenants.get(step.state.tenant) if policies.tenants else None
    country = step.country if category.opt_in else None
    allowed, scope = resolve(profile, category, channel, country, notification.event.data.tags, tenant)
    if not allowed:
        verdicts.words[channel] = "opted_out"
        verdicts.scopes[channel] = scope
        return []
    endpoints, refusal = usable(profile, step.state.user, channel, policies.providers)
    if refusal is not None:
        verdicts.words[channel] = refusal
    return endpoints


def _when(
    step: Step,
    notification: Notification,
    category: CategoryRules,
    channel: Channel,
    verdicts: Verdicts,
    units: dict[str, int],
) -> str:
    """Rules 9 to 11 and the budget: whether a reachable channel goes out now. ``units`` are the caps' that earlier channels
    of this notification will take.
    """
    if category.quiet_hours != "pass" and channel != "in_app":
        word = _quiet(step, notification, category, channel, verdicts)
        if word is not None:
            return word
    if category.digest is not None and channel in category.digest.channels and not notification.closing:
        if not digests.leads(step, notification, category.digest):
            return _collect(verdicts, channel)
        verdicts.opens = True
    if category.throttle is not None and (wait := _wait_for_token(step, notification, category.throttle, channel, verdicts)):
        release, queue = wait
        return _exceeded(
            step, notification, category, channel, "throttled", category.throttle.action, release, queue, verdicts
        )
    mine = _caps_of(notification, category, channel, units) if category.obeys else ()
    for rule in mine:
        free_at = _wait_for_unit(step, notification, rule, units.get(rule.name, 0), verdicts)
        if free_at is not None:
            queue = CAP + rule.name
            return _exceeded(step, notification, category, channel, "capped", rule.action, free_at, queue, verdicts)
    if step.policies.exhausted and category.category_class != "critical" and _over_budget(step, category, channel):
        verdicts.retry_at[channel] = next_day(step.policies.time_zone, step.now)
        return "over_budget"
    for rule in mine:
        units[rule.name] = units.get(rule.name, 0) + 1
    return SENT


def _caps_of(notification: Notification, category: CategoryRules, channel: Channel, units: dict[str, int]) -> list[CapRule]:
    """The caps that have a say on this channel; one without channels is asked once, for the whole notification."""
    tags = notification.event.data.tags
    whole = notification.part is None
    return [
        rule
        for rule in category.obeys
        if (rule.tags is None or rule.concerns(tags))
        and ((whole and rule.name not in units) if rule.channels is None else channel in rule.channels)
    ]


def _collect(verdicts: Verdicts, channel: Channel) -> str:
    verdicts.collected.append(channel)
    return "digest"


def _quiet(
    step: Step, notification: Notification, category: CategoryRules, channel: Channel, verdicts: Verdicts
) -> str | None:
    """Rule 9: None where the channel may disturb now."""
    windows = step.profile.quiet_hours
    week = week_of(windows) if windows else ()
    if channel == "sms" and category.category_class == "marketing" and (country := step.country) is not None:
        table = step.policies.countries.get(country)
        if table is not None and table.marketing_sms:
            week = union(week, table.marketing_sms)
    if not week:
        return None
    zone = step.zone()
    if not is_quiet(week, zone, step.now):
        return None
    end = end_of_quiet(week, zone, step.now)
    action = category.quiet_hours
    if end is not None:
        user = f"{step.state.tenant}/{step.state.user}"
        ends = (notification.expires_at, next_quiet(week, zone, end) if step.policies.wake_up_spread else None)
        last = min((at for at in ends if at is not None), default=None)
        end = spread_out(end, user, step.policies.wake_up_spread, last)
        verdicts.retry_at[channel] = end
    if action == "digest" and category.digest is not None and not notification.closing:
        return _collect(verdicts, channel)
    # Where a week has no free minute, nothing can wait for one.
    if action in ("defer", "digest") and end is not None:
        verdicts.waiting[channel] = end, "quiet_hours", ()
    return "quiet_hours"


def _exceeded(
    step: Step,
    notification: Notification,
    category: CategoryRules,
    channel: Channel,
    word: str,
    action: str,
    release: int,
    queue: str,
    verdicts: Verdicts,
) -> str:
    """Rule 11 did not let the channel pass: it waits, is collected, or falls."""
    if action == "digest" and category.digest is not None and not notification.closing:
        return _collect(verdicts, channel)
    verdicts.retry_at[channel] = release
    if action == "defer" or (action == "digest" and notification.closing):
        verdicts.waiting[channel] = release, word, (queue,)
    return word


def _ahead(step: Step, notification: Notification, queue: str) -> list[int]:
    """The releases of what came earlier and waits in the same queue: it is served first, due in this very step or later."""
    mine = notification.sequence
    return [
        item.release_at
        for item in step.state.pending.values()
        if queue in item.queues and (mine is None or item.sequence < mine)
    ]


def _wait_for_token(
    step: Step, notification: Notification, rule: Limit, channel: Channel, verdicts: Verdicts
) -> tuple[int, str] | None:
    """None where a token is there for this channel; else when one is due, and the bucket's name."""
    key = notification.event.data.throttle_key
    name = f"{notification.event.data.category}/{channel}" if key is None else f"key:{key}/{channel}"
    bucket = refill(step.state.activity.buckets.get(name), rule, step.now)
    verdicts.buckets[name] = bucket, rule, channel
    if not step.state.pending:
        wait = wait_for_token(bucket, rule, 0)
    else:
        ahead = _ahead(step, notification, name)
        wait = wait_for_token(bucket, rule, len(ahead))
        if ahead and rule.action == "defer":
            # Their releases may be later than a new, more generous policy would have them.
            wait = max(wait, max(ahead) - step.now)
    return (step.now + wait, name) if wait else None


def _wait_for_unit(step: Step, notification: Notification, rule: CapRule, taking: int, verdicts: Verdicts) -> int | None:
    """None where the cap has a unit left after ``taking`` others; else when it has."""
    log = step.state.activity.caps.get(rule.name, b"")
    zone = step.zone()
    taken = caps.taken(log, rule, zone, step.now)
    verdicts.caps[rule.name] = taken, rule
    ahead = _ahead(step, notification, CAP + rule.name) if step.state.pending else []
    if taken + taking + len(ahead) < rule.limit:
        return None
    release = caps.free_at(log, rule, zone, step.now, len(ahead) + taking)
    return max([release, step.now + 1, *ahead])


def _over_budget(step: Step, category: CategoryRules, channel: Channel) -> bool:
    """Rule 12: whether the category's budget on this channel is spent for the day of the deployment's calendar."""
    return (category.name, channel, day_name(step.policies.time_zone, step.now)) in step.policies.exhausted


def _choose(step: Step, notification: Notification, category: CategoryRules, verdicts: Verdicts) -> None:
    """Rule 12, ``cheapest``: of the channels that could go out in time only the least expensive one is left."""
    candidates = {channel: step.now for channel, _ in verdicts.going}
    candidates |= {channel: release for channel, (release, _, _) in verdicts.waiting.items()}
    if candidates:  # what a digest would take goes another way
        verdicts.words.update(dict.fromkeys(verdicts.collected, "not_chosen"))
        verdicts.collected.clear()
    if len(candidates) < 2:
        return
    deadline = deadline_of(notification, category)
    chosen = cheapest(candidates, step.policies.prices, step.country, notification.event.data.content or {}, deadline)
    for channel in candidates:
        if channel != chosen:
            verdicts.words[channel] = "not_chosen"
            verdicts.waiting.pop(channel, None)
            verdicts.retry_at.pop(channel, None)
    verdicts.going = [(channel, endpoints) for channel, endpoints in verdicts.going if channel == chosen]


def _conclude(step: Step, notification: Notification, category: CategoryRules, verdicts: Verdicts) -> None:
    """Emit what goes out, keep what waits, and end what does neither."""
    words = verdicts.words
    if not (verdicts.going or verdicts.waiting or verdicts.collected):
        if "superseded" in words.values():
            return step.end(notification, "suppressed", "superseded", verdicts)
        reason = max(words.values(), key=_RULE_ORDER.__getitem__) if words else "no_channel"
        return step.end(notification, "suppressed" if words else "rejected", reason, verdicts)
    taken = notification.part is not None
    if verdicts.going:
        sent = emit(step, notification, verdicts)
        if step.policies.exhausted and category.category_class == "critical":
            step.out.budget_exempt += sum(
                len(endpoints) for channel, endpoints in verdicts.going if _over_budget(step, category, channel)
            )
        digest = category.digest
        if verdicts.opens and digest is not None and any(channel in digest.channels for channel, _ in verdicts.going):
            digests.open_by_leading(step, notification, digest)
        taken = True
        if _on_ladder(notification, category):
            _wait_on_ladder(step, notification, category, sent)
    if verdicts.waiting:
        # Where nothing of a rung goes out, the ladder waits with it.
        part: Part = "ladder" if notification.part == "ladder" and not verdicts.going else "rest"
        waits = _part_of(notification, part) if taken else notification
        cause = min(verdicts.waiting.values())
        step.wait(
            waits,
            "deferred",
            cause[1],
            cause[0],
            verdicts,
            channels=tuple(verdicts.waiting) if waits.part == "rest" else _left(notification, category, verdicts.collected),
            queues=tuple(queue for _, _, queues in verdicts.waiting.values() for queue in queues),
        )
        taken = True
    if verdicts.collected and category.digest is not None:
        waits = _part_of(notification, "digest") if taken else notification
        digests.collect(step, waits, category.digest, verdicts)
    return None


def _left(notification: Notification, category: CategoryRules, collected: list[Channel]) -> tuple[Channel, ...] | None:
    """What waits as a whole is judged on all its channels again, less those that a digest has taken."""
    if not collected:
        return notification.channels
    return tuple(channel for channel in _possible(notification, category) if channel not in collected)


def _part_of(notification: Notification, part: Part) -> Notification:
    """A part of a notification, with its own place in the queue if the notification has one."""
    return Notification(
        notification.id,
        notification.event,
        notification.category,
        notification.lane,
        notification.origin,
        notification.arrived_at,
        notification.payload,
        notification.expires_at,
        notification.step,
        part,
        None,
        notification.sequence,
        notification.closing,
        notification.rung,
    )


def _wait_on_ladder(step: Step, notification: Notification, category: CategoryRules, sent: list[str]) -> None:
    """What is left of a ladder waits for an answer to what was sent."""
    provided = _provided(notification, category)
    if not any(channel in rung.channels for rung in category.rungs[notification.rung + 1 :] for channel in provided):
        return
    waits = _part_of(notification, "ladder")
    waits.rung = notification.rung + 1
    wait = category.rungs[notification.rung].wait
    step.wait(waits, "escalating", WAITS, step.now + wait, outstanding=tuple(sent))
