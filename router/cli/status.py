"""`crossfade status`: the gateway at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from router.cli.endpoint import endpoint_table
from router.cli.output import duration, listing
from router.cli.session import Session, command
from router.cli.watch import watches_text


def register(app: typer.Typer) -> None:
    command(app, "status", status)


def status(session: Session) -> None:
    """Show the gateway at a glance.

    Its addresses, its proxies, Ray, and every endpoint with its state.

    \b
      crossfade status
      crossfade status -o json
    """
    with session.client() as client:
        reply = client.status()
        watches = client.watches() if any(endpoint["watch"] for endpoint in reply["endpoints"]) else []
        tritons = [
            {"endpoint": item["endpoint"], "deployment": item["name"], **triton}
            for endpoint in reply["endpoints"]
            for item in endpoint["deployments"]
            if item["backend"] == "triton"
            for triton in client.tritons(item["endpoint"], item["name"])
        ]
    reply["watches"], reply["tritons"] = watches, tritons
    session.show(reply, lambda: _text(reply))


def _listener(item: Mapping[str, Any]) -> str:
    host = f"[{item['address']}]" if ":" in item["address"] else item["address"]
    places = ", ".join(f"{host}:{port}" for port in item["ports"])
    how = [
        "TLS" if item["tls"] else "plain text",
        "for other machines" if item["is_open"] else "for this machine",
        *([] if item["shows_everything"] else ["some endpoints only"]),
    ]
    return f"{item['name']}: {places} ({', '.join(how)})"


def _text(reply: Mapping[str, Any]) -> str:
    addresses, ray = reply["addresses"], reply["ray"]
    facts = [
        ("crossfade", f"{reply['version']}, up {duration(reply['uptime_s'])}"),
        ("scoring", f"{addresses['scoring_url']} (gRPC: {addresses['grpc_address']})"),
        ("metrics", addresses["metrics_url"]),
        ("admin", addresses["admin_url"]),
        ("ray", f"connected ({ray['address']})" if ray["is_connected"] else f"not connected: {ray['reason']}"),
    ]
    facts += [("listener", _listener(item)) for item in reply["listeners"]]
    facts += [("WARNING", text) for text in reply["warnings"]]
    for item in reply["certificates"]:
        until = f"valid until {item['not_after'][:10]}" if item["not_after"] else item["file"]
        warning = f"; WARNING: {item['warning']}" if item["warning"] else ""
        facts.append(("certificate", f"{', '.join(item['names']) or 'no name'}: {until}{warning}"))
    for item in reply["key_sets"]:
        warning = f"; WARNING: {item['warning']}" if item["warning"] else ""
        facts.append(("key set", f"{item['source']}: {_keys(item['key_ids'])}{warning}"))
    for proxy in reply["proxies"]:
        facts.append(("proxy", f"{proxy['proxy']}: {'up to date' if proxy['is_up_to_date'] else 'updating'}"))
        facts += [("  rejected", f"{item['resource']}: {item['reason']}") for item in proxy["rejected"]]
    for asked in reply["sources"]:
        if asked["trouble"]:
            facts.append(("stale", f"{asked['reference']}: {asked['trouble']} (since {asked['trouble_since']})"))
    for triton in reply["tritons"]:
        counts = f"{triton['successes']} answered, {triton['failures']} failed"
        where = f"{triton['endpoint']}/{triton['deployment']} at {triton['address']}"
        facts.append(("triton", f"{where}: {triton['version']}, {counts}"))
    if not reply["proxies"]:
        facts.append(("proxy", "none is connected"))
    parts = [listing(facts), endpoint_table(reply["endpoints"])]
    if reply["watches"]:
        parts.append(watches_text(reply["watches"]))
    return "\n\n".join(parts)


def _keys(ids: list[str]) -> str:
    return f"{len(ids)} key{'' if len(ids) == 1 else 's'}"
