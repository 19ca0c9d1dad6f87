"""Hypothesis without a deadline: how long an example takes is no property of the code on a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("herald", deadline=None, print_blob=True)
settings.load_profile("herald")
