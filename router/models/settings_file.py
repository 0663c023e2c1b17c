"""The file with the operator's settings for registries, read once when the control plane starts."""

from __future__ import annotations

from pathlib import Path

from router.domain.errors import Invalid
from router.models.settings import RegistrySettings
from router.models.settings_reading import read_settings


def settings_in(file: Path, is_required: bool) -> RegistrySettings:
    """Defaults when there is no such file and it is not required. Raises `Invalid` for a file that cannot be read,
    `SpecProblems` for one with mistakes."""
    try:
        content = file.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not is_required:
            return RegistrySettings()
        raise Invalid("--registries", f"{file}: {error.strerror}", "name a file like registries.yaml") from None
    return read_settings(content, str(file), str(file.resolve().parent))
