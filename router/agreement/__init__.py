"""Whether stable and candidate answer the same: what replicas recorded is collected, paired and compared."""
