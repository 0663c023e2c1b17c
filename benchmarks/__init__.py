"""Load tests and comparisons with other servers. See README.md for what is measured and how."""
