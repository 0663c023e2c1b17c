"""OTLP: the messages in which Envoy pushes its statistics (opentelemetry.proto.collector.metrics.v1, as of 1.0).

Only the fields that are read. The wheels `xds-protos` and `opentelemetry-proto` both install these modules, in versions
whose fields have different names, and whichever is installed last wins: so the messages are described here, in a pool
of their own where no other description can meet them. Field numbers are the protocol's and never change.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

EXPORT_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
EXPORT_METHOD = "Export"

_Field = descriptor_pb2.FieldDescriptorProto
_TEXT, _SIGNED, _UNSIGNED = _Field.TYPE_STRING, _Field.TYPE_SFIXED64, _Field.TYPE_FIXED64
_REAL = _Field.TYPE_DOUBLE

# message -> field -> (number, type, whether it is repeated)
_MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Request": {"resource_metrics": (1, "ResourceMetrics", True)},
    "ResourceMetrics": {"scope_metrics": (2, "ScopeMetrics", True)},
    "ScopeMetrics": {"metrics": (2, "Metric", True)},
    "Metric": {"name": (1, _TEXT, False), "sum": (7, "Sum", False), "histogram": (9, "Histogram", False)},
    "Sum": {"data_points": (1, "Number", True)},
    "Number": {"attributes": (7, "KeyValue", True), "as_int": (6, _SIGNED, False)},
    "Histogram": {"data_points": (1, "Distribution", True)},
    "Distribution": {
        "attributes": (9, "KeyValue", True),
        "count": (4, _UNSIGNED, False),
        "bucket_counts": (6, _UNSIGNED, True),
        "explicit_bounds": (7, _REAL, True),
    },
    "KeyValue": {"key": (1, _TEXT, False), "value": (2, "AnyValue", False)},
    "AnyValue": {"string_value": (1, _TEXT, False)},
}


@cache
def export_request() -> Any:
    """The message class of what is pushed. The answer is an empty message."""
    file = descriptor_pb2.FileDescriptorProto(name="crossfade/otlp.proto", package="crossfade.otlp", syntax="proto3")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, (number, kind, is_repeated) in fields.items():
            label = _Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL
            field = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.Request"))
