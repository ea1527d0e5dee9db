"""How thoroughly the property tests search."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("thorough", max_examples=25_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", settings.get_current_profile_name()))
