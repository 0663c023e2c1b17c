"""obstore, the one library that speaks S3, Google's and Azure's protocols: opened with the operator's settings, and its
errors in words that say what to do.

It is an extra: without it everything else works. Where a store is, whether without TLS, over which proxy and with whose
certificates is always said here, so that nothing of it comes from the environment; credentials may (AWS_…, GOOGLE_…,
AZURE_…, as the clouds' own programs read them) when the settings have none.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from adapters.registries.cloud_reference import CloudReference
from router.domain.errors import ModelUnavailable
from router.models.ports import AccessDenied, Credentials, SourceUnavailable, Transport
from router.models.settings import ObjectStorage, RegistrySettings, authority_of

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import AzureStore, GCSStore, S3Store

    Store = S3Store | GCSStore | AzureStore

_MAX_STORES = 16
_MAX_RETRIES = 3
_TRANSFER_TIMEOUT = timedelta(days=7)  # of a whole file; that it does not stand still is seen to by `read_timeout`
# reqwest takes proxies from the environment unless it is given one; this one is never asked.
_DIRECT = {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": "*,0.0.0.0/0,::/0"}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")


class NoSuchObject(ModelUnavailable):
    """Neither by this name nor, if one was asked for, in this version."""


class CloudStores:
    """Stores by bucket, opened when first asked. Belongs to one event loop."""

    def __init__(self, transport: Transport, settings: RegistrySettings) -> None:
        self._transport = transport
        self._settings = settings
        self._stores: dict[Any, Store] = {}

    async def get(self, reference: CloudReference, key: str, options: Any, what: str) -> GetResult:
        """An object, or what is known of it. Raises `NoSuchObject`, and as `translated` does."""
        store = await self._opened(reference)
        async with self._asking(reference, what):
            answer: GetResult = await obstore().get_async(store, key, options=options)
            return answer

    async def listed(self, reference: CloudReference, prefix: str, most: int, what: str) -> list[ObjectMeta]:
        """What is below `prefix` (with its slash at the end; "": the whole bucket); no page beyond `most` objects."""
        store = await self._opened(reference)
        found: list[ObjectMeta] = []
        async with self._asking(reference, what):
            async for page in obstore().list(store, prefix or None):
                found += page
                if len(found) > most:
                    break
        return found

    async def _opened(self, reference: CloudReference) -> Store:
        """Raises `ModelUnavailable` when the extra is missing, `AccessDenied` for hosts that may not be asked."""
        obstore()
        storage = self._settings.storage(reference.provider)
        account, endpoint = self._account(reference), self._endpoint(reference)
        if reference.provider == "az" and not account:
            raise ModelUnavailable("az://: say whose storage it is: `az: {account: …}` in registries.yaml")
        asked = authority_of(endpoint)
        self._check_allowed(asked, endpoint)
        given = await self._transport.credentials(asked)
        config = _place(reference.provider, endpoint) | _signing(reference.provider, storage, account, given, asked)
        options = await self._client_options(asked, endpoint)
        key = (reference.provider, reference.bucket, repr(sorted(config.items())), repr(sorted(options.items())))
        if key not in self._stores:
            if len(self._stores) >= _MAX_STORES:
                self._stores.clear()
            self._stores[key] = self._made(reference, config, options)
        return self._stores[key]

    def _account(self, reference: CloudReference) -> str:
        given = reference.account or self._settings.storage(reference.provider).account
        return given or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")

    def _endpoint(self, reference: CloudReference) -> str:
        storage = self._settings.storage(reference.provider)
        return storage.endpoint or _endpoint(reference.provider, storage, self._account(reference))

    def _check_allowed(self, asked: str, endpoint: str) -> None:
        if not self._settings.is_host_allowed(asked):
            hint = f"add {asked} to allowed_hosts in registries.yaml if it shall be"
            raise AccessDenied(f"{asked}: no model may be fetched from there; {hint}")
        if urlsplit(endpoint).scheme == "http" and not self._settings.host(asked).is_plain_http:
            hint = f"use https, or allow it in registries.yaml: hosts: {{{asked}: {{plain_http: true}}}}"
            raise AccessDenied(f"{asked}: asking without TLS is not allowed; {hint}")

    @asynccontextmanager
    async def _asking(self, reference: CloudReference, what: str) -> AsyncIterator[None]:
        """Around a question: bounded in time, errors translated. They say which host was asked, and how."""
        endpoint = self._endpoint(reference)
        proxy = self._settings.proxy_for(urlsplit(endpoint).hostname or "")
        what = f"{what} at {authority_of(endpoint)}{f' (through the proxy {proxy})' if proxy else ''}"
        limit_s = self._settings.timeouts.request_s
        try:
            async with asyncio.timeout(limit_s):
                with translated(what):
                    yield
        except TimeoutError:
            hint = "is the store reachable from here, and are there credentials?"
            raise SourceUnavailable(f"{what}: no answer within {limit_s:g} s: {hint}") from None

    def _made(self, reference: CloudReference, config: dict[str, Any], options: dict[str, Any]) -> Store:
        from obstore.store import AzureStore, GCSStore, S3Store

        retry_config: Any = {
            "max_retries": _MAX_RETRIES,
            "retry_timeout": timedelta(seconds=self._settings.timeouts.request_s),
        }
        given: Any = {"config": config, "client_options": options, "retry_config": retry_config}
        with translated(f"{reference.provider}://{reference.bucket}"):
            match reference.provider:
                case "s3":
                    return S3Store(reference.bucket, **given)
                case "gs":
                    return GCSStore(reference.bucket, **given)
                case _:
                    return AzureStore(reference.bucket, **given)

    async def _client_options(self, asked: str, endpoint: str) -> dict[str, Any]:
        host = self._settings.host(asked)
        if host.client_certificate:
            raise AccessDenied(f"{asked}: client certificates cannot be shown to object stores; use credentials")
        timeouts = self._settings.timeouts
        options: dict[str, Any] = {
            "allow_http": host.is_plain_http,
            "connect_timeout": timedelta(seconds=timeouts.connect_s),
            "read_timeout": timedelta(seconds=timeouts.read_s),
            "timeout": _TRANSFER_TIMEOUT,
            "user_agent": "crossfade",
        }
        if authorities := host.ca_bundle or self._settings.ca_bundle:
            options["root_certificate"] = await _pem(authorities)
        proxy = self._settings.proxy_for(urlsplit(endpoint).hostname or "")
        if not proxy:
            return options | _DIRECT
        given = await self._transport.credentials(authority_of(proxy))
        options["proxy_url"] = _with_user(proxy, given)
        if authorities := self._settings.host(authority_of(proxy)).ca_bundle or self._settings.ca_bundle:
            options["proxy_ca_certificate"] = await _pem(authorities)
        return options


def obstore() -> ModuleType:
    """Raises `ModelUnavailable` when the extra is not installed."""
    try:
        import obstore
    except ImportError:
        raise ModelUnavailable(
            "s3://, gs://, az:// and abfss:// need the extra `cloud`: pip install 'crossfade[cloud]', "
            "or make setup EXTRAS=cloud"
        ) from None
    return obstore


@contextmanager
def translated(what: str) -> Iterator[None]:
    """obstore's errors → ours. Its texts are not passed on: they hold URLs with signatures, and pages of debugging."""
    from obstore import exceptions

    try:
        yield
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise _denied(what, error) from None
    except FileNotFoundError:
        raise NoSuchObject(f"{what}: there is no such object, or no such bucket") from None
    except exceptions.PreconditionError:
        raise SourceUnavailable(f"{what}: is another one now: resolve the model again") from None
    except (exceptions.InvalidPathError, exceptions.NotSupportedError, ValueError) as error:
        raise ModelUnavailable(f"{what}: cannot be asked for: {str(error).splitlines()[0][:200]}") from None
    except exceptions.BaseError as error:
        status, said = _STATUS.search(str(error)), _said(error)
        match int(status[1]) if status else 0:
            case 401 | 403:
                raise _denied(what, error) from None
            case 404:
                raise ModelUnavailable(f"{what}: there is no such bucket{said}") from None
            case code if 400 <= code < 500 and code not in (408, 425, 429):
                raise ModelUnavailable(f"{what}: the store answers with {code}{said}") from None
            case 0:
                raise SourceUnavailable(f"{what}: {_reason(error)}") from None
            case code:
                raise SourceUnavailable(f"{what}: the store answers with {code}{said}: try again later") from None


def _denied(what: str, error: Exception) -> AccessDenied:
    hint = "check its credentials: under hosts in registries.yaml, at the store's host, or in the environment"
    return AccessDenied(f"{what}: is not for us{_said(error)}; {hint}")


def _said(error: Exception) -> str:
    code = _CODE.search(str(error))
    return f" ({code[1]})" if code else ""


def _reason(error: Exception) -> str:
    """What of obstore's pages of debugging helps."""
    text = str(error)
    for sign, words in (
        ("Connection refused", "it refuses connections: is it running, and is the port right?"),
        ("dns error", "its name cannot be resolved: check the spelling, and this machine's DNS"),
        ("InvalidCertificate", "its certificate is not trusted: name the authority in ca_bundle"),
        ("TimedOut", "it is silent: try again later"),
        ("169.254.169.254", "there are no credentials: give them under hosts in registries.yaml, or say `anonymous`"),
        ("metadata.google", "there are no credentials: give them under hosts in registries.yaml, or say `anonymous`"),
    ):
        if sign in text:
            return words
    return "the connection broke, or it does not speak the store's protocol: try again, and check the endpoint"


def _endpoint(provider: str, storage: ObjectStorage, account: str) -> str:
    match provider:
        case "s3":
            return f"https://s3.{_region(storage)}.amazonaws.com"
        case "gs":
            return "https://storage.googleapis.com"
        case _:
            return f"https://{account}.blob.core.windows.net"


def _place(provider: str, endpoint: str) -> dict[str, Any]:
    """In obstore's words, and in those that nothing of the environment goes before."""
    match provider:
        case "s3":
            return {"aws_endpoint_url_s3": endpoint, "virtual_hosted_style_request": False}
        case "gs":
            return {"base_url": endpoint}
        case _:
            return {"endpoint": endpoint, "use_emulator": False}


def _region(storage: ObjectStorage) -> str:
    environment = os.environ
    return storage.region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"


def _signing(provider: str, storage: ObjectStorage, account: str, given: Credentials, asked: str) -> dict[str, Any]:
    """Who asks, in obstore's words; without credentials in the settings it looks into the environment itself."""
    config: dict[str, Any] = {"skip_signature": True} if storage.is_anonymous else {}
    match provider:
        case "s3":
            config["region"] = _region(storage)
            if given.token:
                raise AccessDenied(f"{asked}: S3 knows no bearer token: give username (the key's id) and password")
            if given.username:
                config |= {"access_key_id": given.username, "secret_access_key": given.password}
        case "gs":
            if given.token:
                config["bearer_token"] = given.token
            elif given.username:  # as Google's registries have it: the user _json_key, the key's file as the password
                config["service_account_key"] = given.password
        case _:
            config["account_name"] = account
            if given.token:
                config["token"] = given.token
            elif given.password:
                config["sas_key" if "sig=" in given.password else "account_key"] = given.password
    return config


async def _pem(path: str) -> str:
    try:
        return await asyncio.to_thread(Path(path).read_text)
    except (OSError, UnicodeDecodeError):
        raise SourceUnavailable(f"{path}: cannot be read; registries.yaml names it") from None


def _with_user(proxy: str, given: Credentials) -> str:
    if not given.username:
        return proxy
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{quote(given.username, safe='')}:{quote(given.password, safe='')}@{rest}"
