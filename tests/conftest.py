"""Being here makes the repository root importable for every test below, for what they share (`tests.fakes`)."""
