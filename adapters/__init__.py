"""The outside world: one file touches each foreign API. Adapters never import each other."""
