"""Filters that a route brings along: in the listener stands an empty place, and a route says what runs there.

So what runs is made only for the requests of that route, and changes without a change of the listener, whose
connections would drain. Whoever asks for none pays for the question alone, and Envoy does not even load what nobody
asks for.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import extension_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from xds.core.v3 import extension_pb2 as xds_extension_pb2
from xds.type.matcher.v3 import matcher_pb2

from router.xds.resources import packed

_Matcher = matcher_pb2.Matcher


def empty_place(name: str) -> Any:
    """Does nothing until a route says what."""
    skip = xds_extension_pb2.TypedExtensionConfig(name="skip", typed_config=packed(skip_action_pb2.SkipFilter()))
    matching = extension_matcher_pb2.ExtensionWithMatcher(
        extension_config=extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(composite_pb2.Composite())),
        xds_matcher=_Matcher(on_no_match=_Matcher.OnMatch(action=skip)),
    )
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(matching))


def running(name: str, config: Any, only_if: Any = None) -> Any:
    """What a route says of such a place: which filter runs there. `only_if`: a predicate of the requests; None: all."""
    execute = composite_pb2.ExecuteFilterAction(
        typed_config=extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))
    )
    on_match = _Matcher.OnMatch(action=xds_extension_pb2.TypedExtensionConfig(name="run", typed_config=packed(execute)))
    matcher = _Matcher(on_no_match=on_match)
    if only_if is not None:
        one = _Matcher.MatcherList.FieldMatcher(predicate=only_if, on_match=on_match)
        matcher = _Matcher(matcher_list=_Matcher.MatcherList(matchers=[one]))
    return packed(extension_matcher_pb2.ExtensionWithMatcherPerRoute(xds_matcher=matcher))
