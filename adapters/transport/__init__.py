"""HTTP to registries, the only way that models come from other machines: `HttpTransport`."""

from adapters.transport.http import HttpTransport

__all__ = ["HttpTransport"]
