"""What holds for every test: hypothesis without chance and without deadlines.

Hangs are ended by pytest's faulthandler (pyproject.toml). Tests never sleep; markers are declared here.
"""
from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("steady", derandomize=True, deadline=None, database=None, print_blob=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
