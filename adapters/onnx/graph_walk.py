"""Looks through an ONNX file before any runtime reads it: every graph, subgraph, function and tensor in it.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. What a parser would merge (a message
given twice) is refused, so that two readers cannot see two models. Memory stays small whatever the file holds: weights
are skipped where they lie. Pure Python on purpose: 20 million fields take 4 s, real models have some thousands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from posixpath import dirname, join

from adapters.onnx.operators import check_operator
from adapters.onnx.scopes import FunctionTable, Scope
from adapters.onnx.wire import BYTES, VARINT, Buffer, Malformed, Wire, signed
from router.domain.errors import Invalid
from router.domain.model_tree import checked_path
from router.models.ports import AdmissionRefused
from router.models.trial import Check, GraphFacts

MAX_FIELDS = 20_000_000
MAX_NODES = 1_000_000  # with every function written out where it is called
MAX_DEPTH = 30  # subgraphs inside subgraphs; parsers give up at 100 nested messages, three to a subgraph
MAX_RANK = 64
MAX_DENSE_BYTES = 1024**3  # of one sparse tensor, written out

# TensorProto.DataType → bits of an element. (Strings, 8, apart: they stand in a field of their own.)
_BITS = {
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
}
_STRING = 8
_ELEMENTS_PER_BYTE = 4  # in a field of numbers, where the smallest share one

_EXTERNAL_KEYS = ("location", "offset", "length", "checksum")
_NUMBER = re.compile(r"[0-9]{1,19}")

Spans = list[tuple[int, int]]


@dataclass(slots=True)
class _Message:
    """The fields that one message has, by number: places of those with a length, values of numbers.

    Of a number that comes very often, the first and the last are kept. `loose_bytes`: what stands in numbers, at least.
    """

    places: dict[int, Spans] = field(default_factory=dict)
    numbers: dict[int, list[int]] = field(default_factory=dict)
    loose_bytes: int = 0

    def repeated(self, number: int) -> Spans:
        return self.places.get(number, [])

    def last(self, number: int) -> tuple[int, int]:
        """As every parser reads a text that is given twice."""
        spans = self.places.get(number)
        return spans[-1] if spans else (0, 0)

    def number(self, number: int) -> int:
        """An int64 that is 0 when it is not given."""
        values = self.numbers.get(number)
        return signed(values[-1]) if values else 0


def walk(buffer: Buffer, path: str, sizes: Mapping[str, int]) -> GraphFacts:
    """`path` of the model in its tree, `sizes` of all files there, in bytes. Raises `AdmissionRefused`."""
    try:
        return _Walk(buffer, path, sizes).model()
    except Malformed as error:
        raise _refused(f"{path!r} is not an ONNX model: it {error}", "export it again") from None


class _Walk:
    def __init__(self, buffer: Buffer, path: str, sizes: Mapping[str, int]) -> None:
        self._wire = Wire(buffer, MAX_FIELDS)
        self._end = len(buffer)
        self._path = path
        self._sizes = sizes
        self._nodes = self._subgraphs = 0
        self._external: set[str] = set()
        self._functions = FunctionTable(path, MAX_NODES)

    def model(self) -> GraphFacts:
        model = self._message(0, self._end)
        functions = [self._message(*span) for span in model.repeated(25)]
        for function in functions:
            self._functions.declare(self._text(function, 10), self._text(function, 1), self._text(function, 13))
        if model.repeated(20):
            raise _refused(f"{self._path!r} holds a training graph", "export it for inference")
        graph = self._single(model, 7, "graph")
        if not graph:
            raise _refused(f"{self._path!r} is not an ONNX model: it has no graph", "export it again")
        self._functions.enter("", "", "")
        self._graph(graph[0], 0)
        for function in functions:
            self._function(function)
        self._functions.check()
        return GraphFacts(
            path=self._path,
            ir_version=model.number(1),
            opsets=tuple(self._opsets(model)),
            nodes=self._nodes,
            subgraphs=self._subgraphs,
            functions=len(functions),
            external=tuple(sorted(self._external)),
        )

    def _opsets(self, model: _Message) -> Iterator[tuple[str, int]]:
        for span in model.repeated(8):
            opset = self._message(*span)
            yield self._text(opset, 1), opset.number(2)

    def _function(self, function: _Message) -> None:
        self._functions.enter(self._text(function, 10), self._text(function, 1), self._text(function, 13))
        scope = Scope(self._path, self._text(function, 1))
        for span in function.repeated(4):
            scope.take(self._wire.text(*span))
        for span in function.repeated(7):
            self._node(span, scope, 0)
        for span in function.repeated(11):
            self._attribute(span, 0)
        scope.close()

    def _graph(self, span: tuple[int, int], depth: int) -> frozenset[str]:
        """The names that it uses from around it."""
        if depth > MAX_DEPTH:
            raise _refused(f"{self._path!r} nests subgraphs more than {MAX_DEPTH} deep", "flatten it")
        graph = self._message(*span)
        scope = Scope(self._path, self._text(graph, 2))
        for place in graph.repeated(11):
            scope.take(self._text(self._message(*place), 1))
        for place in graph.repeated(5):
            scope.hold(self._tensor(place))
        for place in graph.repeated(15):
            scope.hold(self._sparse_tensor(place))
        for place in graph.repeated(1):
            self._node(place, scope, depth)
        for place in graph.repeated(12):
            scope.use(self._text(self._message(*place), 1))
        return scope.close()

    def _node(self, span: tuple[int, int], scope: Scope, depth: int) -> None:
        node = self._message(*span)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _refused(f"{self._path!r} has more than {MAX_NODES} nodes", "export a smaller model")
        domain, operator = self._text(node, 7), self._text(node, 4)
        is_function = self._functions.call(domain, operator, self._text(node, 8))
        check_operator(self._path, domain, operator, self._text(node, 3), is_function)
        inputs = {self._wire.text(*place) for place in node.repeated(1)}
        for place in node.repeated(5):
            inputs |= self._attribute(place, depth)
        scope.node(inputs, [self._wire.text(*place) for place in node.repeated(2)])

    def _attribute(self, span: tuple[int, int], depth: int) -> set[str]:
        attribute = self._message(*span)
        used: set[str] = set()
        for place in self._single(attribute, 6, "subgraph") + attribute.repeated(11):
            self._subgraphs += 1
            used |= self._graph(place, depth + 1)
        for place in self._single(attribute, 5, "tensor") + attribute.repeated(10):
            self._tensor(place)
        for place in self._single(attribute, 22, "sparse tensor") + attribute.repeated(23):
            self._sparse_tensor(place)
        return used

    def _tensor(self, span: tuple[int, int], may_be_external: bool = True) -> str:
        """Its name."""
        tensor = self._message(*span)
        name = self._text(tensor, 8)
        elements = self._elements(tensor, 1, name)
        data_type = tensor.number(2)
        if data_type not in _BITS and data_type != _STRING:
            raise _refused(f"{self._path!r}: the tensor {name!r} has the unknown type {data_type}", "export it again")
        if tensor.repeated(13) or tensor.number(14):
            if not may_be_external or data_type == _STRING:
                what = "tensor of strings" if data_type == _STRING else "sparse tensor"
                raise _refused(
                    f"{self._path!r}: the {what} {name!r} has its values in a file", "store them in the graph"
                )
            self._check_bytes(name, elements * _BITS[data_type], self._external_bytes(tensor, name))
        elif raw := tensor.repeated(9):
            self._check_bytes(name, elements * _BITS.get(data_type, 0), raw[-1][1] - raw[-1][0])
        else:
            stored = tensor.loose_bytes + sum(b - a for number in (4, 5, 7, 10, 11) for a, b in tensor.repeated(number))
            if elements > max(stored * _ELEMENTS_PER_BYTE, len(tensor.repeated(6))):
                raise _refused(
                    f"{self._path!r}: the tensor {name!r} claims {elements} elements and has fewer", "export it again"
                )
        return name

    def _check_bytes(self, name: str, bits: int, stored: int) -> None:
        wanted = (bits + 7) // 8
        if wanted > stored:
            raise _refused(
                f"{self._path!r}: the tensor {name!r} takes {wanted} bytes and has {stored}", "export it again"
            )

    def _external_bytes(self, tensor: _Message, name: str) -> int:
        """How many bytes the tensor has in its file."""
        entries: dict[str, str] = {}
        for span in tensor.repeated(13):
            entry = self._message(*span)
            key, value = self._text(entry, 1), self._text(entry, 2)
            if key not in _EXTERNAL_KEYS or key in entries:
                raise _refused(
                    f"{self._path!r}: the tensor {name!r} tells {key[:40]!r} of its file",
                    f"only {', '.join(_EXTERNAL_KEYS)} may be told, each once: export it again",
                )
            entries[key] = value
        if "location" not in entries:
            raise _refused(f"{self._path!r}: the tensor {name!r} is in a file that it does not name", "export it again")
        location = entries["location"]
        size = self._sizes.get(self._located(location, name))
        if size is None:
            raise _refused(
                f"{self._path!r}: the tensor {name!r} is in {location[:200]!r}, which is no file of this model",
                "publish the file with the model, beside it",
            )
        offset, length = (self._number(entries.get(key, "0"), key, name) for key in ("offset", "length"))
        if offset + length > size:
            raise _refused(
                f"{self._path!r}: the tensor {name!r} reaches to byte {offset + length} of {location!r},"
                f" which has {size}",
                "publish the file that belongs to the model",
            )
        return length or size - offset

    def _located(self, location: str, name: str) -> str:
        try:
            path = checked_path(join(dirname(self._path), checked_path(location)))
        except Invalid:
            raise _refused(
                f"{self._path!r}: the tensor {name!r} is in {location[:200]!r}, which is not a plain name",
                "weights lie beside the model or below: export it again",
            ) from None
        self._external.add(path)
        return path

    def _number(self, text: str, key: str, name: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise _refused(f"{self._path!r}: the {key} of the tensor {name!r} is {text[:40]!r}", "export it again")
        return int(text)

    def _sparse_tensor(self, span: tuple[int, int]) -> str:
        """Its name, which is that of its values."""
        sparse = self._message(*span)
        name = ""
        for values in self._single(sparse, 1, "values"):
            name = self._tensor(values, may_be_external=False)
        for indices in self._single(sparse, 2, "indices"):
            self._tensor(indices, may_be_external=False)
        if 8 * self._elements(sparse, 3, name) > MAX_DENSE_BYTES:
            raise _refused(
                f"{self._path!r}: the sparse tensor {name!r} unfolds to more than {MAX_DENSE_BYTES // 1024**3} GiB",
                "export a model without it",
            )
        return name

    def _elements(self, holder: _Message, number: int, name: str) -> int:
        """The product of a repeated int64 field that holds a shape."""
        dims = [signed(value) for value in holder.numbers.get(number, ())]
        for start, end in holder.repeated(number):
            if end - start > 10 * MAX_RANK:
                raise _refused(f"{self._path!r}: the tensor {name!r} has more than {MAX_RANK} axes", "export it again")
            dims += map(signed, self._wire.varints(start, end))
        if len(dims) > MAX_RANK or min(dims, default=0) < 0:
            raise _refused(f"{self._path!r}: the tensor {name!r} has the shape {dims[:8]}", "export it again")
        return prod(dims)

    def _single(self, holder: _Message, number: int, what: str) -> Spans:
        """At most one place."""
        spans = holder.repeated(number)
        if len(spans) > 1:
            raise _refused(
                f"{self._path!r} has a {what} given {len(spans)} times, which readers merge", "export it again"
            )
        return spans

    def _text(self, holder: _Message, number: int) -> str:
        return self._wire.text(*holder.last(number))

    def _message(self, start: int, end: int) -> _Message:
        message = _Message()
        for number, wire, a, b in self._wire.fields(start, end):
            if wire == BYTES:
                message.places.setdefault(number, []).append((a, b))
            elif wire == VARINT:
                values = message.numbers.setdefault(number, [])
                if len(values) > MAX_RANK:
                    values.pop()
                values.append(a)
                message.loose_bytes += 1
            else:
                message.loose_bytes += b - a
        return message


def _refused(found: str, to_do: str) -> AdmissionRefused:
    return AdmissionRefused(Check.GRAPH, found, to_do)
