"""`/metrics` counts what was asked, under path templates only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    import httpx


def counts(http: httpx.Client) -> dict[tuple[str, str, str], float]:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (s.labels["route"], s.labels["method"], s.labels["status"]): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
        if s.name == "gradwire_requests_total"
    }


def test_requests_are_counted_by_route_method_and_status(http: httpx.Client) -> None:
    before = counts(http)
    http.get("/v1/sessions/no-such")
    http.get("/nowhere/at/all")
    http.request("BREW", "/v1/limits")
    after = counts(http)
    grown = {key for key in after if after[key] > before.get(key, 0)}
    assert {
        ("/v1/sessions/{sid}", "GET", "404"),
        ("none", "other", "404"),
        ("/v1/limits", "other", "405"),
        ("/metrics", "GET", "200"),
    } <= grown
    assert not any("no-such" in route for route, _, _ in after)
