"""Content codings: what is read, what is refused, and which one a reply gets."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from serving.compression import compress, decompress, response_encoding
from serving.errors import BadRequest, TooLarge, UnsupportedEncoding

TEXT = b'{"inputs":[]}' * 20


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(TEXT)),
        (b"GZIP", gzip.compress(TEXT)),
        (b"x-gzip", gzip.compress(TEXT)),
        (b"deflate", zlib.compress(TEXT)),
        (b"identity", TEXT),
        (b"", TEXT),
    ],
)
def test_gzip_deflate_and_identity_are_read(encoding, body):
    assert decompress(body, encoding, 1000) == TEXT


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, deflate", b"\xff"])
def test_other_codings_are_refused(encoding):
    with pytest.raises(UnsupportedEncoding):
        decompress(TEXT, encoding, 1000)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda body: body[:-1], "cut off"),
        (lambda body: b"", "cut off"),
        (lambda body: b"x" + body, "broken"),
        (lambda body: body + b"!", "followed by 1 more"),
        (lambda body: body + body, "followed by"),
    ],
)
def test_damaged_bodies_are_refused(encoding, damage, reason):
    with pytest.raises(BadRequest, match=reason):
        decompress(damage(compress([TEXT], encoding)), encoding, 1000)


def test_a_body_that_grows_beyond_the_limit_is_not_inflated_further():
    bomb = zlib.compress(b"\0" * 50_000_000)
    tracemalloc.start()
    with pytest.raises(TooLarge, match="larger than 1000 bytes"):
        decompress(bomb, b"deflate", 1000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000
    assert decompress(zlib.compress(b"\0" * 1000), b"deflate", 1000) == b"\0" * 1000


@pytest.mark.parametrize(
    ("accept_encoding", "chosen"),
    [
        (b"", None),
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"x-gzip", b"gzip"),
        (b"GZip", b"gzip"),
        (b"br", None),
        (b"identity", None),
        (b"*", None),
        # tritonclient.http.aio, httpx, requests and curl list all they know: a tie, which identity wins.
        (b"gzip, deflate, br", None),
        (b"gzip, deflate", None),
        (b"gzip;q=1, identity;q=1", None),
        (b"gzip;q=0.5, identity;q=0.6", None),
        (b"gzip;q=0.6, identity;q=0.5", b"gzip"),
        (b"gzip;q=0.5, deflate;q=0.8", b"deflate"),
        (b"gzip ; q=0.9 ,deflate;q=0.8", b"gzip"),
        (b"br;q=1.0, gzip;q=0.8", b"gzip"),
        (b"gzip, deflate, identity;q=0", b"gzip"),
        (b"*;q=0.5, identity;q=0", b"gzip"),
        (b"gzip;q=0", None),
        (b"gzip;q=0, deflate", b"deflate"),
        (b"gzip;q=nonsense", None),
        (b"gzip;q=7", None),
        (b"gzip;q=nan", None),
        (b";;,,=;q", None),
    ],
)
def test_the_reply_s_coding_is_the_one_that_weighs_most_and_identity_wins_ties(accept_encoding, chosen):
    assert response_encoding(accept_encoding) == chosen
