"""Flink through its Java API: what PyFlink does not wrap, each piece once."""

from __future__ import annotations

from typing import Any

from pyflink.java_gateway import get_gateway
from pyflink.util.java_utils import load_java_class, to_jarray

RUNTIME = "io.herald.runtime"


def runtime(name: str, *arguments: Any) -> Any:
    """Instantiate a class of the runtime module; its jar is in the cluster's lib directory."""
    objects = to_jarray(get_gateway().jvm.Object, list(arguments))
    return load_java_class(f"{RUNTIME}.{name}").getConstructors()[0].newInstance(objects)


def constant(name: str, field: str) -> Any:
    """A public constant of the runtime module."""
    return load_java_class(f"{RUNTIME}.{name}").getField(field).get(None)


def side_output(name: str) -> Any:
    """The side output of that name."""
    return get_gateway().jvm.org.apache.flink.util.OutputTag(name, constant("OutputRow", "TYPE"))


def kafka() -> Any:
    """The package of the Kafka connector."""
    return get_gateway().jvm.org.apache.flink.connector.kafka


def strings(values: list[str]) -> Any:
    """A Java array of strings, which a varargs method wants."""
    return to_jarray(get_gateway().jvm.String, values)


def descriptors(*each: Any) -> Any:
    """A Java array of state descriptors, which a varargs method wants."""
    return to_jarray(get_gateway().jvm.org.apache.flink.api.common.state.MapStateDescriptor, list(each))


def union(first: Any, *others: Any) -> Any:
    """One stream of several, with nothing between them and what reads it."""
    if not others:
        return first
    return first.union(to_jarray(get_gateway().jvm.org.apache.flink.streaming.api.datastream.DataStream, list(others)))
