"""The package list is explicit, so that a directory is shipped because it was meant to be."""

from setuptools import setup

setup(
    packages=[
        "cli",
        "cli.demo",
        "cli.simulation",
        "cli.stack",
        "connectors",
        "connectors.adapters",
        "connectors.gateway",
        "emulators",
        "jobs",
        "messages",
        "policy",
        "udfs",
    ],
)
