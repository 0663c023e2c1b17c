"""The admin API: HTTP and JSON over `Operations`. pydantic, FastAPI and status codes stop here."""

from router.api.app import create_app

__all__ = ["create_app"]
