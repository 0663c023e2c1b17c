"""Real servers that tests start: where their programs come from. What starts and asks them lies beside the tests."""
