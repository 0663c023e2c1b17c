"""Who defines and who uses a name in a model: values within graphs, functions within the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from router.models.ports import AdmissionRefused
from router.models.trial import Check

_Function = tuple[str, str, str]  # domain, name, overload


class Scope:
    """The values of one graph. Every method raises `AdmissionRefused` for a name that is given twice."""

    __slots__ = ("_defined", "_graph", "_nodes", "_path", "_producers", "_used")

    def __init__(self, path: str, graph: str) -> None:
        self._path = path
        self._graph = graph
        self._defined: set[str] = set()
        self._producers: dict[str, int] = {}
        self._nodes: list[set[str]] = []  # what each uses
        self._used: set[str] = set()

    def take(self, name: str) -> None:
        """An input."""
        if name in self._producers:
            raise self._twice(name)
        self._producers[name] = -1

    def hold(self, name: str) -> None:
        """An initialiser; it may be the default of an input."""
        if name in self._defined:
            raise self._twice(name)
        self._defined.add(name)

    def node(self, inputs: set[str], outputs: Iterable[str]) -> None:
        """`inputs`: with those of its subgraphs. An empty name stands for a value that is not there."""
        for name in outputs:
            if name in self._producers or name in self._defined:
                raise self._twice(name)
            if name:
                self._producers[name] = len(self._nodes)
        inputs.discard("")
        self._nodes.append(inputs)
        self._used |= inputs

    def use(self, name: str) -> None:
        """An output of the graph."""
        self._used.add(name)

    def close(self) -> frozenset[str]:
        """The names from around it. Raises `AdmissionRefused` when nodes wait for one another."""
        self._check_order()
        return frozenset(self._used - self._defined - self._producers.keys())

    def _check_order(self) -> None:
        followers: dict[int, list[int]] = {}
        missing = [0] * len(self._nodes)
        for at, inputs in enumerate(self._nodes):
            for producer in {self._producers.get(name, -1) for name in inputs} - {-1}:
                followers.setdefault(producer, []).append(at)
                missing[at] += 1
        ready = [at for at, count in enumerate(missing) if not count]
        done = 0
        while ready:
            done += 1
            for follower in followers.get(ready.pop(), ()):
                missing[follower] -= 1
                if not missing[follower]:
                    ready.append(follower)
        if done < len(self._nodes):
            raise AdmissionRefused(
                Check.GRAPH,
                f"{self._path!r}: {len(self._nodes) - done} nodes of the graph {self._graph!r} wait for one another",
                "export it again",
            )

    def _twice(self, name: str) -> AdmissionRefused:
        return AdmissionRefused(
            Check.GRAPH, f"{self._path!r}: {name!r} is defined twice in the graph {self._graph!r}", "export it again"
        )


class FunctionTable:
    """Which functions call which, and how large the model becomes when every call is written out, as runtimes do."""

    def __init__(self, path: str, max_nodes: int) -> None:
        self._path = path
        self._max_nodes = max_nodes
        self._calls: dict[_Function, Counter[_Function]] = {}
        self._plain: Counter[_Function] = Counter()
        self._caller: _Function = ("", "", "")

    def declare(self, domain: str, name: str, overload: str) -> None:
        """Raises `AdmissionRefused` when there is one already."""
        function = _key(domain, name, overload)
        if function in self._calls:
            raise self._refused(f"the function {name!r} is defined twice", "export it again")
        self._calls[function] = Counter()

    def enter(self, domain: str, name: str, overload: str) -> None:
        """The calls that follow are made here. All empty: in the model's graph."""
        self._caller = _key(domain, name, overload)
        self._calls.setdefault(self._caller, Counter())

    def call(self, domain: str, operator: str, overload: str) -> bool:
        """False: no function of the model."""
        function = _key(domain, operator, overload)
        if function not in self._calls:
            self._plain[self._caller] += 1
            return False
        self._calls[self._caller][function] += 1
        return True

    def check(self) -> None:
        """Raises `AdmissionRefused` when functions call themselves, or write out to more nodes than may be."""
        sizes: dict[_Function, int] = {}
        open_: set[_Function] = set()
        for first in self._calls:
            stack = [first]
            while stack:
                function = stack[-1]
                if function in sizes:
                    stack.pop()
                    continue
                calls = self._calls[function]
                waiting = [called for called in calls if called not in sizes]
                if waiting:
                    if function in open_ and any(called in open_ for called in waiting):
                        raise self._refused(f"the function {function[1]!r} calls itself", "export it again")
                    open_.add(function)
                    stack += waiting
                    continue
                sizes[function] = self._plain[function] + sum(count * sizes[called] for called, count in calls.items())
                if sizes[function] > self._max_nodes:
                    raise self._refused(
                        f"its functions unfold to more than {self._max_nodes} nodes", "export a smaller model"
                    )
                open_.discard(function)
                stack.pop()

    def _refused(self, found: str, to_do: str) -> AdmissionRefused:
        return AdmissionRefused(Check.GRAPH, f"{self._path!r}: {found}", to_do)


def _key(domain: str, name: str, overload: str) -> _Function:
    return "" if domain == "ai.onnx" else domain, name, overload
