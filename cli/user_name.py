"""The name of a user on the command line."""

from __future__ import annotations

import click
import msgspec

from messages.words import DEFAULT_TENANT, Tenant


class UserName(click.ParamType[tuple[str, str]]):
    """``[TENANT/]USER``, as (tenant, user)."""

    name = "[TENANT/]USER"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        """Split at the first slash; without one the tenant is the default one."""
        tenant, slash, user = value.partition("/")
        if not slash:
            tenant, user = DEFAULT_TENANT, value
        try:
            msgspec.convert(tenant, Tenant)
        except msgspec.ValidationError:
            self.fail(
                f"`{tenant}` is no tenant; write a user with a slash in it as {DEFAULT_TENANT}/{value}", param, context
            )
        if not user:
            self.fail("no user; write USER, or TENANT/USER", param, context)
        return tenant, user
