"""Translation: requests that scoped routing cannot read are given a path that it can.

Scoped routing reads the second and third path segments, which suffices for `/v2/models/<endpoint>/…`, the hot path: it
runs none of the filters below. The rest is translated by a few lines of Lua:

- a model-level gRPC call names its model in the body: `/v2/models/<model>[/versions/<version>]/<Method>`
- so does a stream, in its first message: the whole stream goes where that one does. It is marked, and takes as long as
  it takes; the replica keeps the time of each request in it
- where messages may be compressed (`grpc-encoding`), Envoy's own filter cannot read the name. As much as the name takes
  is decompressed for that, of a stream the first message (compressed_calls.lua); the rest is for whoever answers
- `/endpoints/<endpoint>/score`: `/v2/models/<endpoint>/infer`
- a server-level call, HTTP or gRPC: `SERVER_PREFIX` before its path
- a query string, of which the protocol knows none, is dropped: it would hide the end of the segment before it

Measured (one row of 64 floats, 2-core machine, CPU of Envoy): skipping costs an HTTP request 2 µs, translating costs a
gRPC call 20 µs of 85. Reading the name in Lua instead of grpc_field_extraction would save 5 of them, and be a protobuf
parser of our own.

Names from a body are put into a path only when they are legal names; others become `-`, which is no endpoint's name.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2
from envoy.extensions.filters.http.grpc_field_extraction.v3 import config_pb2 as extraction_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import http_inputs_pb2, metadata_pb2, value_pb2
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2
from xds.core.v3 import extension_pb2 as xds_extension_pb2
from xds.type.matcher.v3 import matcher_pb2, regex_pb2, string_pb2

from router.xds.gateway import MODEL_HEADER, ORIGINAL_PATH_HEADER, SERVER_PREFIX, SERVICE, STREAM_HEADER
from router.xds.resources import packed
from router.xds.scripts import READING, inline, script

STREAMING_PATH = f"/{SERVICE}/ModelStreamInfer"

# method -> the fields of its request that hold the model's name and version
MODEL_METHODS = {
    "ModelInfer": ("model_name", "model_version"),
    "ModelStreamInfer": ("model_name", "model_version"),
    "ModelReady": ("name", "version"),
    "ModelMetadata": ("name", "version"),
    "ModelConfig": ("name", "version"),
    "ModelStatistics": ("name", "version"),
}

EXTRACTION_FILTER = "envoy.filters.http.grpc_field_extraction"
_NOTED = "crossfade.stream"  # why its first message cannot be read, by the status of the refusal
_HOT_PREFIX = "/v2/models/"
# How the paths begin of calls that name their endpoint elsewhere than scoped routing looks, until they are translated.
NAMED_PREFIXES = (f"/{SERVICE}/Model", "/endpoints/")

_LUA = """
local FIELDS = {@FIELDS@}

local function first(values)
  return values and values[1] or ""
end

local function is_legal(name)
  return #name <= 63 and string.find(name, "^%w[%w._-]*$") and string.find(name, "%w$")
end

local function names_in_metadata(handle, method)
  local fields = handle:streamInfo():dynamicMetadata():get("@EXTRACTION@") or {}
  return first(fields[FIELDS[method][1]]), first(fields[FIELDS[method][2]])
end

local function model_path(handle, headers, method)
  local name, version
  local coding = method ~= "ModelStreamInfer" and compression_of(headers)
  if coding then
    name, version = names_in_body(handle, coding)
    headers = handle:headers()
  else
    name, version = names_in_metadata(handle, method)
  end
  if name == "" and method == "ModelStatistics" then
    return nil
  end
  if method == "ModelStreamInfer" then
    headers:replace("@STREAM@", "1")
    headers:replace("x-envoy-upstream-rq-timeout-ms", "0")
    headers:replace("x-envoy-upstream-rq-per-try-timeout-ms", "0")
    headers:remove("content-length") -- of a chunk (compressed_calls.lua)
  end
  headers:replace("@MODEL@", string.sub(string.gsub(name, "[^%w._-]", "?"), 1, 63))
  local path = "/v2/models/" .. (is_legal(name) and name or "-")
  if version ~= "" then
    path = path .. "/versions/" .. (is_legal(version) and version or "-")
  end
  return path .. "/" .. method
end

local function translated(handle, headers, path)
  local method = string.match(path, "^/@SERVICE@/(%w+)$")
  if method then
    return FIELDS[method] and model_path(handle, headers, method) or "@SERVER@" .. path
  end
  local endpoint = string.match(path, "^/endpoints/([^/]+)/score$")
  if endpoint then
    return "/v2/models/" .. endpoint .. "/infer"
  end
  if string.find(path, "^/v2/models/") then
    return path
  end
  if path == "/v2" or string.find(path, "^/v2/") or string.find(path, "^/grpc%.health%.v1%.Health/") then
    return "@SERVER@" .. path
  end
  return nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = string.match(headers:get(":path"), "^[^?]*")
  local is_fine, target = pcall(translated, handle, headers, path)
  if not is_fine then
    local refusal = as_refusal(target)
    handle:respond({ [":status"] = refusal.status }, refusal.text)
  elseif target then
    headers = handle:headers()
    headers:replace("@ORIGINAL@", path)
    headers:replace(":path", target)
  end
end
"""

_STREAM_LUA = """
function envoy_on_request(handle)
  pass_beginning(handle, compression_of(handle:headers()))
end
"""


def translation_filters() -> list[Any]:
    """The extraction of names from gRPC bodies and the Lua that uses them; both skipped on the hot path.

    The extraction waits for a message, also when the request ended with its headers: such a one it must not see.
    """
    is_stream = _path("exact", STREAMING_PATH)
    is_unreadable = _both(_may_be_compressed(), _not(is_stream))
    return [
        _unless(_any(_not(is_stream), _is_empty_call()), "crossfade.translation.stream", _lua(_STREAM_LUA)),
        _unless(_any(_is_hot(), _is_empty_call(), is_unreadable), EXTRACTION_FILTER, packed(_extraction())),
        _unless(_is_hot(), "crossfade.translation", _lua(_LUA)),
    ]


def stream_refusal(status: int) -> tuple[Any, str]:
    """Why a stream's first message could not be read, if one such was noted: a matcher of metadata, and the words."""
    segment = metadata_pb2.MetadataMatcher.PathSegment
    noted = metadata_pb2.MetadataMatcher(
        filter=_NOTED, path=[segment(key=str(status))], value=value_pb2.ValueMatcher(present_match=True)
    )
    return noted, f"%DYNAMIC_METADATA({_NOTED}:{status})%"


def for_named_calls(name: str, config: Any) -> Any:
    """The filter, for calls alone that name their endpoint elsewhere than scoped routing looks, streams excepted: their
    request need not end before the reply begins."""
    return _unless(_not(_is_named_call()), name, config)


def for_server_calls(name: str, config: Any) -> Any:
    """The filter, for calls alone that are about the server, or whose query is in the way."""
    beginnings = ("/v2", f"/{SERVICE}/", "/grpc.health.v1.Health/")
    is_known = _any(*(_path("prefix", beginning) for beginning in beginnings))
    is_other = _any(_is_hot(), _is_named_call(), _path("exact", STREAMING_PATH))
    return _unless(_any(_not(is_known), is_other), name, config)


def if_translated(name: str, config: Any) -> Any:
    """The filter, for calls alone whose path was translated; it stands behind these filters."""
    return _unless(_not(_path("prefix", "/", ORIGINAL_PATH_HEADER)), name, config)


def _lua(text: str) -> Any:
    whole = script(*READING, "compressed_calls", marks=_marks(), more=text)
    return packed(lua_pb2.Lua(default_source_code=inline(whole)))


def _marks() -> dict[str, str]:
    fields = ", ".join(f'{method} = {{"{name}", "{version}"}}' for method, (name, version) in MODEL_METHODS.items())
    return {
        "@FIELDS@": fields,
        "@EXTRACTION@": EXTRACTION_FILTER,
        "@MODEL@": MODEL_HEADER,
        "@NOTED@": _NOTED,
        "@ORIGINAL@": ORIGINAL_PATH_HEADER,
        "@SERVICE@": SERVICE.replace(".", "%."),
        "@SERVER@": SERVER_PREFIX,
        "@STREAM@": STREAM_HEADER,
    }


def _extraction() -> Any:
    descriptors = descriptor_pb2.FileDescriptorSet()
    for file in (model_config_pb2, service_pb2):
        file.DESCRIPTOR.CopyToProto(descriptors.file.add())
    extraction = extraction_pb2.FieldExtractions
    return extraction_pb2.GrpcFieldExtractionConfig(
        descriptor_set=base_pb2.DataSource(inline_bytes=descriptors.SerializeToString(deterministic=True)),
        extractions_by_method={
            f"{SERVICE}.{method}": extraction(
                request_field_extractions={field: extraction_pb2.RequestFieldValueDisposition() for field in fields}
            )
            for method, fields in MODEL_METHODS.items()
        },
    )


def _unless(predicate: Any, name: str, config: Any) -> Any:
    skip = matcher_pb2.Matcher.OnMatch(
        action=xds_extension_pb2.TypedExtensionConfig(name="skip", typed_config=packed(skip_action_pb2.SkipFilter()))
    )
    matching = extension_matcher_pb2.ExtensionWithMatcher(
        extension_config=extension_pb2.TypedExtensionConfig(name=name, typed_config=config),
        xds_matcher=matcher_pb2.Matcher(
            matcher_list=matcher_pb2.Matcher.MatcherList(
                matchers=[matcher_pb2.Matcher.MatcherList.FieldMatcher(predicate=predicate, on_match=skip)]
            )
        ),
    )
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(matching))


def _is_hot() -> Any:
    return _both(_path("prefix", _HOT_PREFIX), _not(_path("contains", "?")))


def _is_named_call() -> Any:
    is_named = _any(*(_path("prefix", beginning) for beginning in NAMED_PREFIXES))
    return _both(is_named, _not(_path("exact", STREAMING_PATH)))


def _is_empty_call() -> Any:
    """A call without a body, but for a stream, which may take its time. The buffer tells the length of the others."""
    digits = regex_pb2.RegexMatcher(google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex="[1-9][0-9]*")
    length = string_pb2.StringMatcher(safe_regex=digits)
    return _both(_not(_header("content-length", length)), _not(_path("exact", STREAMING_PATH)))


def _may_be_compressed() -> Any:
    coding = "grpc-encoding"
    identity = _header(coding, string_pb2.StringMatcher(exact="identity"))
    anything = regex_pb2.RegexMatcher(google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex=".+")
    return _both(_header(coding, string_pb2.StringMatcher(safe_regex=anything)), _not(identity))


def _both(*predicates: Any) -> Any:
    predicate = matcher_pb2.Matcher.MatcherList.Predicate
    return predicate(and_matcher=predicate.PredicateList(predicate=predicates))


def _not(predicate: Any) -> Any:
    return matcher_pb2.Matcher.MatcherList.Predicate(not_matcher=predicate)


def _any(*predicates: Any) -> Any:
    predicate = matcher_pb2.Matcher.MatcherList.Predicate
    return predicate(or_matcher=predicate.PredicateList(predicate=predicates))


def _path(how: str, text: str, header: str = ":path") -> Any:
    return _header(header, string_pb2.StringMatcher(**{how: text}))


def _header(name: str, value: Any) -> Any:
    predicate = matcher_pb2.Matcher.MatcherList.Predicate
    return predicate(
        single_predicate=predicate.SinglePredicate(
            input=xds_extension_pb2.TypedExtensionConfig(
                name="header",
                typed_config=packed(http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=name)),
            ),
            value_match=value,
        )
    )
