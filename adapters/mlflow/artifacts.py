"""Files that an MLflow server hands out itself, by its artifact API: listed folder by folder, fetched one by one.

Its ETag and Last-Modified are of no use: MLflow 3.17 copies an artifact for every request and tells of the copy, so an
If-Range never holds. Only a digest tells whether a file that was fetched in parts is one file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from adapters.registry_http import Located, checked, mapping, size_of
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import checked_path
from router.models.ports import RemoteFile, Transport

_API = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """`base`: the URL of the API; `root`: the model's folder behind it."""

    base: str
    root: str

    @classmethod
    def at(cls, place: str, server: str) -> Artifacts | None:
        """`place` as the registry tells it, when it is one of those that MLflow servers hand out; else None.

        `mlflow-artifacts:/7/…` lies on `server`, `mlflow-artifacts://host/7/…` and `https://host…/7/…` on others.
        """
        parts = urlsplit(place)
        if parts.scheme == "mlflow-artifacts":
            beside = urlsplit(server)
            base = f"{beside.scheme}://{parts.netloc}{_API}" if parts.netloc else f"{server}{_API}"
            return cls(base, parts.path.strip("/"))
        begin, found, root = place.partition(f"{_API}/")
        if parts.scheme in ("https", "http") and found:
            return cls(begin + _API, root.strip("/"))
        return None

    async def listed(self, transport: Transport, max_files: int, what: str) -> tuple[RemoteFile, ...]:
        """Every file below the root. Raises `ModelUnavailable` for too many, and for names that lead elsewhere."""
        files: list[RemoteFile] = []
        folders, seen = [""], 0
        while folders:
            folder = folders.pop()
            seen += 1
            url = f"{self.base}?path={quote(_joined(self.root, folder), safe='')}"
            answer = mapping(checked(await transport.request("GET", url), what).json(), what)
            for entry in _entries(answer, what):
                path = _inside(folder, entry.get("path"), what)
                if entry.get("is_dir"):
                    folders.append(path)
                else:
                    located = Located(f"{self.base}/{quote(_joined(self.root, path))}")
                    files.append(RemoteFile(path, size_of(entry.get("file_size")), "", str(located)))
                if len(files) + len(folders) + seen > max_files + 1:  # the root is none of the model's
                    raise ModelUnavailable(f"{what}: has more than {max_files} files (limits.max_files)")
        return tuple(files)


def _entries(answer: dict[str, Any], what: str) -> list[dict[str, Any]]:
    entries = answer.get("files", [])
    if not isinstance(entries, list):
        raise ModelUnavailable(f"{what}: the server lists its files in a way that is not MLflow's")
    return [mapping(entry, what) for entry in entries]


def _inside(folder: str, name: Any, what: str) -> str:
    """Servers name what lies in a folder by its last part alone."""
    try:
        if not isinstance(name, str) or "/" in name:
            raise Invalid("path", f"{str(name)[:80]!r} is not a file's name")
        return checked_path(_joined(folder, name))
    except Invalid as error:
        raise ModelUnavailable(f"{what}: the server lists a file that cannot be: {error.message}") from None


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
