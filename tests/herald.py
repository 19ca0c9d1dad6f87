"""The ``herald`` command in the tests' own process."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.session import console


def herald(*arguments: str, width: int = 200) -> Result:
    """What the command did, on a terminal of that width."""
    with pytest.MonkeyPatch.context() as patch:
        # Taken when the console was made, from whatever the process was started in.
        patch.setattr(console, "_width", width)
        return CliRunner().invoke(main, arguments)
