"""What the load generators print, read."""

import pytest

from benchmarks.load import LoadFailed, h2load_counts

OUTPUT = """finished in 2.00s, 2082.00 req/s, 305.63KB/s
requests: 4164 total, 4165 started, 4164 done, 4160 succeeded, 1 failed, 2 errored, 1 timeout
status codes: 4165 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 611.26KB (625932) total, 113.90KB (116632) headers (space savings 91.08%), 284.72KB (291550) data
"""


def test_h2load_tells_successes_failures_and_bytes_of_bodies():
    assert h2load_counts(OUTPUT) == (4160, 4, 291550)


def test_an_output_that_cannot_be_read_is_an_error_and_not_a_zero():
    with pytest.raises(LoadFailed, match="something new"):
        h2load_counts("finished in 2.00s")
