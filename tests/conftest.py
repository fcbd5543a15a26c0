"""What holds for every test."""

from hypothesis import settings

# a shared machine stops a test for longer than hypothesis' 200 ms: time is no promise of any test here
settings.register_profile("no timing", deadline=None)
settings.load_profile("no timing")
