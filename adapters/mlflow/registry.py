"""Models in an MLflow registry, by its REST API (https://mlflow.org/docs/latest/api_reference/rest-api.html).

`models:/name/3`, `models:/name@alias`, `models:/name/latest`, each with a path inside the model when it holds several.
MLflow itself, Azure ML and Databricks' workspace registry answer the same questions; who asks shows a bearer token. The
latter two hand out their files in ways of their own. Databricks' Unity Catalog has an API of its own.
The registry has no checksums: the version's tag `crossfade.sha256` may hold one (or what `sha256sum` prints).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from adapters.mlflow.artifacts import Artifacts
from adapters.mlflow.azure_ml import WorkspaceFiles, is_azure_ml
from adapters.mlflow.databricks import SignedFiles, is_databricks
from adapters.mlflow.layout import MAX_MLMODEL_BYTES, MLMODEL, layout_in
from adapters.registry_http import checked, located_file, mapping, size_of, words
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import checked_digest, checked_path
from router.models.ports import (
    AccessDenied,
    Download,
    RemoteFile,
    Reply,
    Resolution,
    Source,
    SourceUnavailable,
    Transport,
)
from router.models.settings import RegistrySettings, authority_of

_SHA256_TAG = "crossfade.sha256"
_NOT_THERE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
_HINT = "let the MLflow server hand its artifacts out (--serve-artifacts), or keep them in a store known here"
_DBFS_HINT = (
    "of Databricks' file system only what its workspace registry keeps can be read: copy the model to a store known "
    "here, such as az:// or abfss://, and name it there"
)
# Where a delegated resolution is kept inside ours, so that reading needs nothing else.
_FROM, _FROM_PINNED, _FROM_REVISION = "source", "source_pinned", "source_revision"


@dataclass(frozen=True, slots=True)
class _Asked:
    """`version` is a number, "latest", or "" when it is the alias that counts. `inside`: a path in the model, or ""."""

    name: str
    version: str
    alias: str
    inside: str

    @property
    def is_fixed(self) -> bool:
        return self.version.isdecimal()


@dataclass(frozen=True, slots=True)
class _Version:
    """A model version as the registry tells it."""

    name: str
    number: str
    created_ms: int
    run_id: str
    user: str
    tags: Mapping[str, str]

    @property
    def revision(self) -> str:
        """A version never changes; but a model that is deleted and made again counts from 1 again."""
        return f"{self.number}@{self.created_ms}"


class MlflowModels:
    """Implements `Source`. `delegates`: scheme → who reads what the registry keeps in other places."""

    def __init__(self, transport: Transport, settings: RegistrySettings, delegates: Mapping[str, Source]) -> None:
        self._transport = transport
        self._settings = settings
        self._delegates = dict(delegates)

    async def resolve(self, ref: ModelRef) -> Resolution:
        asked = _parsed(ref)
        version = await self._version(ref, asked)
        place = await self._place(ref, version)
        pinned = f"models:/{version.name}/{version.number}" + (f"/{asked.inside}" if asked.inside else "")
        lineage = {**await self._origin(version), _FROM: place}
        made = Resolution(ref, pinned, version.revision, (), version.number, lineage)
        if artifacts := Artifacts.at(place, self._server(ref)):
            listed = await artifacts.listed(self._transport, self._settings.limits.max_files, str(ref))
            made = replace(made, files=listed)
        elif signed := self._signed(made):
            listed = await signed.listed(self._settings.limits.max_files)
            made = replace(made, files=listed)
        else:
            made = await self._delegated(made, place)
        files = await self._model_of(made, asked.inside)
        return replace(made, files=with_digests(files, version.tags.get(_SHA256_TAG, ""), str(ref)))

    def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AbstractAsyncContextManager[Download]:
        lineage = resolution.lineage
        if signed := self._signed(resolution):
            return signed.read(file, offset)
        if _FROM_PINNED not in lineage:
            return located_file(self._transport, file.locator, offset)
        there = ModelRef.parse(lineage[_FROM])
        theirs = Resolution(there, lineage[_FROM_PINNED], lineage[_FROM_REVISION], resolution.files)
        return self._delegates[there.scheme].read(theirs, file, offset)

    def _signed(self, resolution: Resolution) -> SignedFiles | WorkspaceFiles | None:
        """The files when the registry signs a URL for each; None when they are read in another way."""
        place, what = resolution.lineage.get(_FROM, ""), str(resolution.ref)
        if is_azure_ml(place):
            return WorkspaceFiles.at(place, self._server(resolution.ref), self._transport, what)
        if not is_databricks(place):
            return None
        fixed = _parsed(ModelRef.parse(resolution.pinned))
        return SignedFiles(self._transport, self._server(resolution.ref), fixed.name, fixed.version, what)

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        asked = _parsed(ref)
        return not asked.is_fixed and (await self._version(ref, asked)).revision != revision

    async def _version(self, ref: ModelRef, asked: _Asked) -> _Version:
        if asked.alias:
            said = await self._ask(ref, "registered-models/alias", name=asked.name, alias=asked.alias)
            return _version(said.get("model_version"), ref)
        if asked.is_fixed:
            said = await self._ask(ref, "model-versions/get", name=asked.name, version=asked.version)
            return _version(said.get("model_version"), ref)
        said = await self._ask(ref, "registered-models/get", name=asked.name)
        latest = mapping(said.get("registered_model"), str(ref)).get("latest_versions", [])
        versions = [_version(version, ref) for version in latest] if isinstance(latest, list) else []
        if not versions:  # one for each stage
            raise ModelUnavailable(f"{ref}: the model has no version yet")
        return max(versions, key=lambda version: int(version.number))

    async def _place(self, ref: ModelRef, version: _Version) -> str:
        """Where the version's files are, as the registry says."""
        said = await self._ask(ref, "model-versions/get-download-uri", name=version.name, version=version.number)
        place = said.get("artifact_uri")
        if isinstance(place, str) and place.startswith("runs:/"):
            run_id, _, path = place.removeprefix("runs:/").partition("/")
            run = mapping((await self._ask(ref, "runs/get", run_id=run_id)).get("run"), str(ref))
            root = mapping(run.get("info"), str(ref)).get("artifact_uri")
            place = f"{root}/{path}" if isinstance(root, str) else None
        if not isinstance(place, str) or not place or not place.isprintable():
            raise ModelUnavailable(f"{ref}: the registry does not say where its files are")
        return place

    async def _origin(self, version: _Version) -> dict[str, str]:
        """What is known of where the version comes from. The run tells who made it, if the server tells of the run."""
        known = {"run_id": version.run_id, "author": version.user}
        if version.created_ms:
            known["created"] = datetime.fromtimestamp(version.created_ms / 1000, UTC).isoformat(timespec="seconds")
        if version.run_id:
            url = self._url("runs/get", run_id=version.run_id)
            reply = await self._transport.request("GET", url)
            if reply.status == 200:
                run = mapping(mapping(reply.json(), url).get("run"), url)
                known["author"] = known["author"] or words(mapping(run.get("info", {}), url).get("user_id"))
                tags = _tags(mapping(run.get("data", {}), url).get("tags"))
                known["commit"] = words(tags.get("mlflow.source.git.commit"))
        return {name: value for name, value in known.items() if value}

    async def _delegated(self, made: Resolution, place: str) -> Resolution:
        """The files as the source of another scheme lists them."""
        scheme = place.partition(":")[0]
        source = self._delegates.get(scheme)
        if source is None:
            hint = _DBFS_HINT if scheme == "dbfs" else _HINT
            raise ModelUnavailable(
                f"{made.ref}: its files are at {_shown(place)}, which cannot be read from here; {hint}"
            )
        if scheme not in ("https", "http") and not self._settings.is_source_allowed(place):
            hint = "name it (or how it begins) in allowed_sources in registries.yaml"
            raise AccessDenied(
                f"{made.ref}: the registry says that its files are at {_shown(place)}; {hint} if that is right"
            )
        theirs = await source.resolve(ModelRef.parse(place))
        kept = {_FROM_PINNED: theirs.pinned, _FROM_REVISION: theirs.revision}
        return replace(made, files=theirs.files, lineage={**made.lineage, **kept})

    async def _model_of(self, made: Resolution, inside: str) -> list[RemoteFile]:
        """Those of the files that are the model, named from its folder on."""
        by_path = {file.path: file for file in made.files}
        mlmodel = await self._small(made, by_path[MLMODEL]) if MLMODEL in by_path else b""
        try:
            layout = layout_in(sorted(by_path), mlmodel, inside)
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{made.ref}: {error}") from None
        return [replace(by_path[path], path=layout.name(path)) for path in layout.paths]

    async def _small(self, made: Resolution, file: RemoteFile) -> bytes:
        content = b""
        async with self.read(made, file, 0) as download:
            async for chunk in download.chunks:
                content += chunk
                if len(content) > MAX_MLMODEL_BYTES:
                    raise ModelUnavailable(f"{made.ref}: its {file.path} is larger than {MAX_MLMODEL_BYTES} bytes")
        return content

    async def _ask(self, ref: ModelRef, call: str, **query: str) -> dict[str, Any]:
        self._server(ref)
        reply = await self._transport.request("GET", self._url(call, **query))
        if reply.status in (400, 404) and _error_code(reply) in _NOT_THERE:
            host = authority_of(self._settings.mlflow_server)
            raise ModelUnavailable(f"{ref}: {host} has no such model, version or alias ({_error_code(reply)})")
        return mapping(checked(reply, str(ref)).json(), str(ref))

    def _url(self, call: str, **query: str) -> str:
        return f"{self._settings.mlflow_server}/api/2.0/mlflow/{call}?{urlencode(query)}"

    def _server(self, ref: ModelRef) -> str:
        if not self._settings.mlflow_server:
            hint = "write mlflow: {tracking_server: https://…} in registries.yaml"
            raise ModelUnavailable(f"{ref}: it is not said which MLflow server to ask; {hint}")
        return self._settings.mlflow_server


def _parsed(ref: ModelRef) -> _Asked:
    """`/name/3`, `/name/latest`, `name@alias`, each with a path behind it."""
    name, _, rest = ref.location.strip("/").partition("/")
    name, is_alias, alias = name.partition("@")
    version = ""
    if not is_alias:
        version, _, rest = rest.partition("/")
    is_version = version.isascii() and (version.isdecimal() or version == "latest") and len(version) < 10
    if not name or not (alias if is_alias else is_version):
        raise ModelUnavailable(f"{ref}: write models:/name/3, models:/name@alias or models:/name/latest")
    try:
        return _Asked(name, version, alias, checked_path(rest) if rest else "")
    except Invalid as error:
        raise ModelUnavailable(f"{ref}: {error.message}") from None


def _version(said: Any, ref: ModelRef) -> _Version:
    version = mapping(said, str(ref))
    name, number = version.get("name"), str(version.get("version", ""))
    if not isinstance(name, str) or not (number.isascii() and number.isdecimal()):
        raise ModelUnavailable(f"{ref}: the answer is not what an MLflow registry says: is it another server?")
    status = version.get("status", "READY")
    if status == "PENDING_REGISTRATION":
        raise SourceUnavailable(f"{ref}: version {number} is still being registered: try again later")
    if status != "READY":
        raise ModelUnavailable(f"{ref}: version {number} is not ready ({words(status)}): register it again")
    user = words(version.get("user_id"))
    created_ms = max(0, size_of(version.get("creation_timestamp")))
    return _Version(name, number, created_ms, words(version.get("run_id")), user, _tags(version.get("tags")))


def _tags(said: Any) -> dict[str, str]:
    tags = [tag for tag in said if isinstance(tag, dict)] if isinstance(said, list) else []
    return {str(tag.get("key")): str(tag.get("value")) for tag in tags}


def _error_code(reply: Reply) -> str:
    said = reply.json()
    return words(said.get("error_code")) if isinstance(said, dict) else ""


def _shown(place: str) -> str:
    """Without query and password."""
    return place.partition("?")[0].rpartition("@")[2][:300]


def with_digests(files: Sequence[RemoteFile], tag: str, what: str) -> tuple[RemoteFile, ...]:
    """The files with the digests that the version's tag tells: one for the only file, or lines as `sha256sum` prints
    them. A file that has no line is refused, for somebody meant to vouch for all of them. Raises `ModelUnavailable`."""
    if not tag.strip():
        return tuple(files)
    lines = [line.split(maxsplit=1) for line in tag.strip().splitlines()]
    if len(lines) == 1 and len(lines[0]) == 1 and len(files) == 1:
        lines[0].append(files[0].path)
    told = {line[1].removeprefix("*").removeprefix("./"): line[0] for line in lines if len(line) == 2}
    try:
        return tuple(replace(file, sha256=checked_digest(told[file.path])) for file in files)
    except KeyError as missing:
        raise ModelUnavailable(f"{what}: its tag {_SHA256_TAG} has no digest of {missing.args[0]!r}") from None
    except Invalid as error:
        raise ModelUnavailable(f"{what}: its tag {_SHA256_TAG} is wrong: {error.message}") from None
