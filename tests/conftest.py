"""How thoroughly the property tests search."""

from __future__ import annotations

import os

from hypothesis import settings

# A loaded machine is slow, which is no defect.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.register_profile("thorough", max_examples=25_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))
