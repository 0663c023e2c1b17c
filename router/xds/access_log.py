"""Access log: one JSON object a request. No header that could hold a credential, no body, no query string."""

from __future__ import annotations

from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from google.protobuf.struct_pb2 import Struct

from router.xds.gateway import ADMITTED_HEADER, DEPLOYMENT_HEADER, ORIGINAL_PATH_HEADER
from router.xds.resources import packed

_FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:PATH)%",
    "original_path": f"%REQ({ORIGINAL_PATH_HEADER})%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "deployment": f"%RESP({DEPLOYMENT_HEADER})%",
    "upstream": "%UPSTREAM_HOST%",
    "request_id": "%STREAM_ID%",
    "admitted": f"%REQ({ADMITTED_HEADER})%",
    "client_certificate": "%DOWNSTREAM_PEER_FINGERPRINT_256%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",  # where the request comes from, behind proxies that are trusted
    "peer": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",  # whoever is connected
    "user_agent": "%REQ(USER-AGENT)%",
}


def json_access_log(path: str, listener: str) -> Any:
    fields = Struct()
    fields.update({**_FIELDS, "listener": listener})
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.file",
        typed_config=packed(
            file_pb2.FileAccessLog(
                path=path,
                log_format=substitution_format_string_pb2.SubstitutionFormatString(json_format=fields),
            )
        ),
    )
