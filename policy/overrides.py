"""The set of policies and the overrides that lie over it: what of the records of their topic is in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from messages.codec import DecodeError
from messages.policy import POLICY_SET, Category, CategoryPatch, Override, Policy, decode_override, decode_policy


class Effective(msgspec.Struct, frozen=True):
    """The set with its patches applied, and what lies over it.

    ``overrides`` are those in force, by their keys; ``patched`` names the categories that a patch changed; ``ignored`` says
    for the key of an override that is not in force why.
    """

    document: Policy
    overrides: tuple[Override, ...]
    patched: tuple[str, ...]
    ignored: dict[str, str]


def check_name(name: str, override: Override) -> None:
    """Raise DecodeError unless ``name``, the key on the topic, is the one that ``override`` belongs under.

    Under two keys it would be in force twice, and removing one would lift nothing.
    """
    if name != override.key:
        raise DecodeError(f"this override belongs under the key `{override.key}`, not `{name}`")


def merge_patch(target: Any, patch: Any) -> Any:
    """``target`` as a JSON merge patch (RFC 7396) makes it: a null removes a key, anything but an object replaces.

    Neither argument is changed.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def patched_category(category: Category, patch: CategoryPatch) -> Category:
    """``category`` with ``patch`` applied; DecodeError, with the path inside the category, where that is none."""
    try:
        changes = {key: msgspec.json.decode(value) for key, value in patch.patch.items()}
        return msgspec.convert(merge_patch(msgspec.to_builtins(category), changes), Category)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError.of(error) from None


def lie_over(document: Policy, overrides: Mapping[str, Override]) -> Effective:
    """What is in force where ``overrides``, by their keys, lie over ``document``.

    A patch that concerns no category, or would make the set invalid, is ignored by itself: the others apply.
    """
    in_force: list[Override] = []
    patched: list[str] = []
    ignored: dict[str, str] = {}
    for key, override in sorted(overrides.items()):
        if isinstance(override, CategoryPatch):
            category = document.categories.get(override.name)
            if category is None:
                ignored[key] = f"the set has no category `{override.name}`"
                continue
            try:
                changed = patched_category(category, override)
                # This checks what concerns the set as a whole.
                document = replace(document, categories=document.categories | {override.name: changed})
            except ValueError as error:
                ignored[key] = str(error)
                continue
            patched.append(override.name)
        in_force.append(override)
    return Effective(document, tuple(in_force), tuple(patched), ignored)


class InForce(msgspec.Struct):
    """What is in force of a ``packaged`` set (None where it is not known) and the records taken since, in their order."""

    packaged: Policy | None
    policy: Policy | None
    overrides: dict[str, Override] = {}

    @classmethod
    def of(cls, packaged: Policy | None) -> InForce:
        """What is in force where there is no record."""
        return cls(packaged, packaged)

    def take(self, name: str, value: bytes | None) -> Policy | Override | None:
        """Take a record, and return its document; without a value it removes, and the packaged set is in force again.

        DecodeError, and nothing changes, where it is not valid, a set not newer, or an override under another's name or
        one that does not fit the set: it would wait there to surprise somebody.
        """
        if value is None:
            if name == POLICY_SET:
                self.policy = self.packaged
            self.overrides = {key: override for key, override in self.overrides.items() if key != name}
            return None
        if name == POLICY_SET:
            new = decode_policy(value)
            if self.policy is not None and new != self.policy and new.version <= self.policy.version:
                raise DecodeError(
                    f"version {new.version} is not above {self.policy.version}, which is in force", "$.version"
                )
            self.policy = new
            return new
        if "/" not in name:
            raise DecodeError(f"no policy has the name `{name}`; the set's is `{POLICY_SET}`, an override's kind/…")
        override = decode_override(value)
        check_name(name, override)
        overrides = self.overrides | {name: override}
        if self.policy is not None and (why_not := lie_over(self.policy, overrides).ignored.get(name)) is not None:
            raise DecodeError(why_not)
        self.overrides = overrides
        return override
