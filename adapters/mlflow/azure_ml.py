"""Files that Azure Machine Learning keeps, which a workspace's MLflow registry names `azureml://…`: the workspace lists
them, and signs a URL of its storage for each. What is asked is what Microsoft's own client asks (azureml-mlflow 1.62,
`_client/artifact`).

They belong to a run, `…/experiments/NAME/runs/ID/artifacts/PATH`, or were uploaded, `azureml://artifacts/ORIGIN/CONTAINER/PATH`.
A signed URL is a secret that ages: one is asked for whenever a file is read, and none is kept.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from adapters.registry_http import checked, mapping
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import checked_path
from router.models.ports import Download, RemoteFile, Transport

_WORKSPACE = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+",
    re.IGNORECASE,
)
_OF_RUN = re.compile(r".*/experiments/([^/]+)/runs/([^/]+)/artifacts(?:/(.*))?")


def is_azure_ml(place: str) -> bool:
    return place.startswith("azureml://")


@dataclass(frozen=True, slots=True)
class WorkspaceFiles:
    """The files of one model version. `artifacts`: the URL where they are listed; `root`: the model's folder there.

    `what`: was asked for, in the user's words.
    """

    transport: Transport
    artifacts: str
    root: str
    what: str

    @classmethod
    def at(cls, place: str, server: str, transport: Transport, what: str) -> WorkspaceFiles:
        """`server`: the workspace's URL for MLflow. Raises `ModelUnavailable` for a place that is none of its own."""
        host, path = urlsplit(server), unquote(urlsplit(place).path)
        own, theirs = _WORKSPACE.search(host.path), _WORKSPACE.search(path)
        if own is None:
            hint = "write the workspace's whole URL for MLflow, …/workspaces/NAME, as mlflow: {tracking_server: …}"
            raise ModelUnavailable(
                f"{what}: its files are in an Azure ML workspace, and it is not said in which; {hint}"
            )
        if theirs is not None and theirs[0].lower() != own[0].lower():
            raise ModelUnavailable(
                f"{what}: its files are in another workspace, {theirs[0]}; ask that one for the model"
            )
        base = f"{host.scheme}://{host.netloc}"
        if found := _OF_RUN.fullmatch(path):
            experiment, run, root = quote(found[1], safe=""), quote(found[2], safe=""), found[3] or ""
            url = f"{base}/history/v1.0{own[0]}/experiments/{experiment}/runs/{run}/artifacts"
        elif urlsplit(place).netloc == "artifacts" and path.count("/") > 1:
            origin, container, root = [*path.removeprefix("/").split("/", 2), ""][:3]
            url = f"{base}/artifact/v2.0{own[0]}/artifacts/{quote(origin, safe='')}/{quote(container, safe='')}"
        else:
            hint = "copy the model to a store known here, such as az:// or abfss://, and name it there"
            raise ModelUnavailable(
                f"{what}: its files are at {place[:300]}, which Azure ML's API does not list; {hint}"
            )
        return cls(transport, url, root.strip("/"), what)

    async def listed(self, max_files: int) -> tuple[RemoteFile, ...]:
        """All of them; Azure ML does not say how large they are. Raises `ModelUnavailable` for too many, and for names
        that lead elsewhere."""
        files: list[RemoteFile] = []
        token, seen = "", 0
        while True:
            answer = await self._asked("", **({"continuationToken": token} if token else {}))
            entries = answer.get("value", [])
            if not isinstance(entries, list):
                raise ModelUnavailable(f"{self.what}: the workspace lists its files in a way that is not Azure ML's")
            paths = [self._inside(mapping(entry, self.what).get("path")) for entry in entries]
            files += [RemoteFile(path, -1, "", path) for path in paths if path is not None]
            # What else a run has left is listed as well.
            seen += len(entries)
            if len(files) > max_files or seen > 100 * max_files:
                raise ModelUnavailable(f"{self.what}: has more than {max_files} files (limits.max_files)")
            token = answer.get("continuationToken") or ""
            if not isinstance(token, str) or not (entries and token):
                return tuple(files)

    @asynccontextmanager
    async def read(self, file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        """Raises as `Transport.stream`; the storage's host needs to be one that may be asked."""
        path = f"{self.root}/{file.locator}" if self.root else file.locator
        url = (await self._asked("/contentinfo", path=path)).get("contentUri")
        if not isinstance(url, str):
            raise ModelUnavailable(f"{self.what}: the workspace does not say where {file.locator} can be read")
        async with self.transport.stream(url, offset=offset) as download:
            yield download

    async def _asked(self, call: str, **query: str) -> dict[str, Any]:
        url = f"{self.artifacts}{call}" + (f"?{urlencode(query)}" if query else "")
        return mapping(checked(await self.transport.request("GET", url), self.what).json(), self.what)

    def _inside(self, name: Any) -> str | None:
        """Named from the model's folder on; None for what is not in it."""
        above = f"{self.root}/" if self.root else ""
        try:
            if not isinstance(name, str):
                raise Invalid("path", f"{str(name)[:80]!r} is no path")
            return checked_path(name.removeprefix(above)) if name.startswith(above) else None
        except Invalid as error:
            raise ModelUnavailable(f"{self.what}: the server lists a file that cannot be: {error.message}") from None
