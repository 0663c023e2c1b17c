"""The admin API of one test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api.admin import Admin


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    made = Admin()
    yield made
    await made.http.aclose()
