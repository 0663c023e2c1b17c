"""The admin API: HTTP and JSON over `Operations`. pydantic, FastAPI and status codes stop here."""

from router.api.app import Services, create_app

__all__ = ["Services", "create_app"]
