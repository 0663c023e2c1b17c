"""Files of Databricks' workspace registry, which lie at `dbfs:/databricks/mlflow-registry/…`: the registry lists them,
and signs a URL of the cloud's storage for each. What is asked is what MLflow's own client asks (MLflow 3.17,
`mlflow.store.artifact.databricks_models_artifact_repo`).

A signed URL holds for minutes and is a secret: one is asked for whenever a file is read, and none is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from adapters.registry_http import checked, mapping, size_of
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import checked_path
from router.models.ports import Download, RemoteFile, Transport

_OURS = frozenset({"connection", "content-length", "host", "if-range", "range", "transfer-encoding"})


def is_databricks(place: str) -> bool:
    return place.startswith("dbfs:/databricks/")


@dataclass(frozen=True, slots=True)
class SignedFiles:
    """The files of one model version. `server`: the workspace's URL; `what`: was asked for, in the user's words."""

    transport: Transport
    server: str
    name: str
    version: str
    what: str

    async def listed(self, max_files: int) -> tuple[RemoteFile, ...]:
        """All of them. Raises `ModelUnavailable` for too many, and for names that lead elsewhere."""
        files: list[RemoteFile] = []
        folders, token, asked = [""], "", 0
        while folders:
            folder = folders[-1]
            answer = await self._asked("list-artifacts", folder, **({"page_token": token} if token else {}))
            asked += 1
            entries = answer.get("files", [])
            if not isinstance(entries, list):
                raise ModelUnavailable(f"{self.what}: the registry lists its files in a way that is not Databricks'")
            token = answer.get("next_page_token") or ""
            if not isinstance(token, str) or not (entries and token):
                token = ""
                folders.pop()
            for entry in (mapping(entry, self.what) for entry in entries):
                path = self._inside(folder, entry.get("path"))
                if entry.get("is_dir"):
                    folders.insert(0, path)
                else:
                    files.append(RemoteFile(path, size_of(entry.get("file_size")), "", path))
            if len(files) + len(folders) + asked > 2 * max_files + 1 or len(files) > max_files:
                raise ModelUnavailable(f"{self.what}: has more than {max_files} files (limits.max_files)")
        return tuple(files)

    @asynccontextmanager
    async def read(self, file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        """Raises as `Transport.stream`; the storage's host needs to be one that may be asked."""
        answer = await self._asked("get-signed-download-uri", file.locator)
        url, headers = answer.get("signed_uri"), answer.get("headers") or []
        if not isinstance(url, str) or not isinstance(headers, list):
            raise ModelUnavailable(f"{self.what}: the registry does not say where {file.locator} can be read")
        named = dict(self._header(header) for header in headers)
        async with self.transport.stream(url, offset=offset, headers=named) as download:
            yield download

    async def _asked(self, call: str, path: str, **more: str) -> dict[str, Any]:
        query = urlencode({"name": self.name, "version": self.version, "path": path, **more})
        reply = await self.transport.request("GET", f"{self.server}/api/2.0/mlflow/model-versions/{call}?{query}")
        return mapping(checked(reply, self.what).json(), self.what)

    def _header(self, said: Any) -> tuple[str, str]:
        match said:
            case {"name": str(name), "value": str(value)} if name.lower() not in _OURS and _is_plain(name + value):
                return name, value
        raise ModelUnavailable(f"{self.what}: the registry wants a header to be sent that cannot be")

    def _inside(self, folder: str, name: Any) -> str:
        """Entries are named from the model's root on, and lie directly in `folder`."""
        above = f"{folder}/" if folder else ""
        try:
            if not isinstance(name, str) or not name.startswith(above) or "/" in name.removeprefix(above):
                raise Invalid("path", f"{str(name)[:80]!r} is not in the folder {folder[:80]!r}")
            return checked_path(name)
        except Invalid as error:
            raise ModelUnavailable(f"{self.what}: the server lists a file that cannot be: {error.message}") from None


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()
