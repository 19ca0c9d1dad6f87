"""A handler that does what its items say and reports what it saw, for the tests of the operator.

An item's payload is a JSON object: ``profile``, ``activity`` (text, or null to clear), ``pending`` {id: text or null},
``timer`` [before, due], ``rows`` [[topic, key, value, [[name, value], …]], …], ``counters`` {name: n}, ``raise``: text.
Every bundle ends in one row on topic ``seen``: a JSON object of the arguments of all calls.
"""

import json
import struct

import msgspec

u32 = struct.Struct(">I").pack


def chunk(text):
    return u32(0xFFFFFFFF) if text is None else u32(len(text.encode("latin-1"))) + text.encode("latin-1")


def text(value):
    return None if value is None else bytes(value).decode("latin-1")


def operation(script, state):
    if state not in script:
        return b"\0"
    return b"\1" if script[state] is None else b"\2" + chunk(script[state])


def row(topic, key, value, headers=()):
    parts = [part for pair in headers for part in pair]
    return b"".join((chunk(topic), chunk(key), chunk(value), u32(len(headers)), *map(chunk, parts)))


class Handler:
    def __init__(self):
        self.configured = None
        self.policies = {}
        self.calls = []

    def configure(self, setup, subtask):
        self.configured = [text(setup), subtask]
        return "core_failures\nbounds_hit;bound=buckets"

    def policy(self, name, document):
        self.calls.append(["policy", name, text(document)])
        if document.startswith(b"bad"):
            return False
        self.policies[name] = text(document)
        return True

    def policy_version(self):
        return len(self.policies)

    def policy_error(self):
        return "starts with bad"

    def policy_removed(self, name):
        self.policies.pop(name, None)

    def decide(self, now, bundle):
        slots, items = msgspec.msgpack.decode(bundle)
        scripts = {}
        rows, counters = [], []
        seen = []
        for slot, (kind, topic, partition, offset, timestamp, payload) in items:
            script = json.loads(payload) if payload else {}
            if "raise" in script:
                raise ValueError(script["raise"])
            scripts.setdefault(slot, {}).update(script)
            rows += [row(*each) for each in script.get("rows", ())]
            counters += script.get("counters", {}).items()
            seen.append([slots[slot][0], kind, topic, partition, offset, timestamp, text(payload)])
        touched = []
        for slot, script in scripts.items():
            pending = script.get("pending", {})
            touched.append(
                u32(slot)
                + operation(script, "profile")
                + operation(script, "activity")
                + u32(len(pending))
                + b"".join(chunk(name) + chunk(value) for name, value in pending.items())
                + struct.pack(">qq", *script.get("timer", (0, 0)))
            )
        report = {
            "now": now,
            "configured": self.configured,
            "policies": self.policies,
            "calls": self.calls,
            "slots": {
                key: [text(profile), text(activity), None if pending is None else {i: text(v) for i, v in pending.items()}]
                for key, profile, activity, pending in slots
            },
            "items": seen,
        }
        rows.append(row("seen", None, json.dumps(report)))
        return b"".join(
            (
                u32(len(touched)),
                *touched,
                u32(len(rows)),
                *rows,
                u32(len(counters)),
                *(chunk(name) + u32(count) for name, count in counters),
            )
        )
