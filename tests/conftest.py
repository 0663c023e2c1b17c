"""Being here makes the repository root importable for every test below, for what they share (`tests.fakes`)."""

from hypothesis import settings

# A busy machine is no failure: no example has a time limit of its own.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
