"""Filters that routes bring along: Envoy has them where some endpoint asks for them, and makes them with its routes.

What a filter of a listener says cannot change without the listener, whose connections then drain. So a composite
filter stands in the listener, which does nothing until a route tells it which filter to run. Whoever asks for none pays
for the question alone, and Envoy does not even load what nobody asks for.
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


def place_for_filter(name: str) -> Any:
    """Where a filter of the routes runs; does nothing until a route says what."""
    skip = xds_extension_pb2.TypedExtensionConfig(name="skip", typed_config=packed(skip_action_pb2.SkipFilter()))
    matching = extension_matcher_pb2.ExtensionWithMatcher(
        extension_config=extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(composite_pb2.Composite())),
        xds_matcher=matcher_pb2.Matcher(on_no_match=matcher_pb2.Matcher.OnMatch(action=skip)),
    )
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(matching))


def brought(name: str, config: Any, only_if: Any = None) -> Any:
    """What a route says to such a place: run the filter `name` with `config`. `only_if`: a predicate of requests."""
    action = composite_pb2.ExecuteFilterAction(
        typed_config=extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))
    )
    run = matcher_pb2.Matcher.OnMatch(
        action=xds_extension_pb2.TypedExtensionConfig(name="run", typed_config=packed(action))
    )
    matcher = matcher_pb2.Matcher(on_no_match=run)
    if only_if is not None:
        one = matcher_pb2.Matcher.MatcherList.FieldMatcher(predicate=only_if, on_match=run)
        matcher = matcher_pb2.Matcher(matcher_list=matcher_pb2.Matcher.MatcherList(matchers=[one]))
    return packed(extension_matcher_pb2.ExtensionWithMatcherPerRoute(xds_matcher=matcher))
