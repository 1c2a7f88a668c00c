"""What holds for every test."""

from hypothesis import HealthCheck, settings

# The machine is shared with others: how long an example takes says nothing about the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
