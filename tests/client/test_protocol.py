"""The protocol without I/O: what is sent, when it is sent again, and what is raised."""

from __future__ import annotations

import email.utils
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradwire import errors
from gradwire._protocol import (
    Answer,
    Attempt,
    Lost,
    Reply,
    Request,
    RetryPolicy,
    Wait,
    converse,
    idempotency_key,
)
from gradwire.wire import json as wire_json
from gradwire.wire import safetensors
from gradwire.wire.errors import STATUS, problem
from gradwire.wire.messages import BINARY, JSON, PROBLEM

Outcome = Reply | Lost


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are as short as they can be."""
    monkeypatch.setattr("gradwire._protocol.random.random", lambda: 0.0)


OK = Reply(200, {"content-type": JSON}, b'{"ok": true}')
RUN = Request("POST", "/v1/sessions/s/forward", {"inputs": {}})


def busy(*, after: str | None = None, status: int = 503) -> Reply:
    code = "overloaded" if status == 503 else "rate_limited"
    body = wire_json.dumps(problem(code, status, "try later", {"reason": "full"}))
    named = {} if after is None else {"retry-after": after}
    return Reply(status, {"content-type": PROBLEM, **named}, body)


def refusal(code: str, **facts: object) -> Reply:
    body = wire_json.dumps(problem(code, STATUS[code], f"no {code}", facts))
    return Reply(STATUS[code], {"content-type": PROBLEM, "x-request-id": "r1"}, body)


def drive(
    request: Request, outcomes: list[Outcome], policy: RetryPolicy | None = None
) -> tuple[Answer, list[Attempt], list[float]]:
    """Plays the outcomes back; gives the answer, what was sent and what was waited."""
    sent: list[Attempt] = []
    waited: list[float] = []
    left = iter(outcomes)
    steps = converse(request, policy or RetryPolicy())
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                waited.append(step.seconds)
                step = steps.send(None)
            else:
                sent.append(step)
                step = steps.send(next(left))
    except StopIteration as done:
        return done.value, sent, waited
    finally:
        assert next(left, None) is None, "not every outcome was asked for"


def body(attempt: Attempt) -> bytes:
    return b"".join(attempt.chunks)


# -- what is sent ----------------------------------------------------------------------------------


def test_a_read_has_no_body() -> None:
    answer, (attempt,), _ = drive(Request("GET", "/v1/ops", query={"limit": "3"}), [OK])
    assert answer.document == {"ok": True}
    assert attempt.chunks == ()
    assert attempt.query == {"limit": "3"}
    assert attempt.headers == {"Accept": f"{JSON}, {PROBLEM}"}


def test_tensors_travel_as_safetensors_under_their_paths() -> None:
    x = np.arange(3, dtype=np.float32)
    request = Request(
        "POST", "/p", {"wrt": ["a/b"]}, {"inputs/a/b": x}, binary=True, binary_answer=True
    )
    _, (attempt,), _ = drive(request, [OK])
    assert attempt.headers["Content-Type"] == BINARY
    assert attempt.headers["Accept"] == f"{BINARY}, {PROBLEM}"
    tensors, document = safetensors.unpack(body(attempt), "request")
    assert document == {"wrt": ["a/b"]}
    np.testing.assert_array_equal(tensors["inputs/a/b"], x)
    assert attempt.size == len(body(attempt))


def test_json_puts_each_tensor_where_its_path_says() -> None:
    one = np.ones((), np.float32)
    document = {
        "nodes": [{"op": "const"}, {"op": "const", "attrs": {"other": 1}}],
        "run": {"mode": "forward", "transforms": [{"transform": "linearize"}]},
    }
    tensors = {
        "inputs/attrs/x/y": one,
        "nodes/0/attrs/value": one,
        "nodes/1/attrs/value": one,
        "run/inputs/x": one,
        "run/transforms/0/inputs/x": one,
    }
    _, (attempt,), _ = drive(Request("POST", "/p", document, tensors), [OK])
    encoded = {"dtype": "float32", "shape": [], "data": [1.0]}
    assert attempt.headers["Content-Type"] == JSON
    assert wire_json.loads(body(attempt)) == {
        "inputs": {"attrs/x/y": encoded},
        "nodes": [
            {"op": "const", "attrs": {"value": encoded}},
            {"op": "const", "attrs": {"other": 1, "value": encoded}},
        ],
        "run": {
            "mode": "forward",
            "inputs": {"x": encoded},
            "transforms": [{"transform": "linearize", "inputs": {"x": encoded}}],
        },
    }
    assert "inputs" not in document, "the caller's document is left alone"


def test_a_binary_request_without_tensors_is_json() -> None:
    request = Request("POST", "/p", {"wrt": []}, binary=True, binary_answer=True)
    _, (attempt,), _ = drive(request, [OK])
    assert attempt.headers["Content-Type"] == JSON
    assert attempt.headers["Accept"].startswith(BINARY)


# -- what comes back -------------------------------------------------------------------------------


def test_a_binary_answer_is_read_in_order() -> None:
    tensors: dict[str, Any] = {
        "outputs/b": np.zeros(2, np.float32),
        "outputs/a": np.ones((), np.float64),
    }
    raw = b"".join(safetensors.pack(tensors, {"note": 1}, "response"))
    answer, _, _ = drive(RUN, [Reply(200, {"content-type": BINARY}, raw)])
    assert list(answer.tensors) == ["outputs/b", "outputs/a"]
    assert answer.document == {"note": 1}


def test_no_content_is_an_answer() -> None:
    answer, _, _ = drive(Request("DELETE", "/v1/sessions/s"), [Reply(204, {})])
    assert (answer.status, answer.document) == (204, None)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(200, {"content-type": "text/html"}, b"<html>"), "is .* a gradwire server"),
        (Reply(200, {}, b"{}"), "content type none"),
        (Reply(200, {"content-type": JSON}, b"{"), "cannot be read"),
        (Reply(200, {"content-type": BINARY}, b"\0"), "cannot be read"),
    ],
)
def test_an_answer_that_cannot_be_read(reply: Reply, words: str) -> None:
    with pytest.raises(errors.UnexpectedAnswer, match=words):
        drive(RUN, [reply])


# -- errors ----------------------------------------------------------------------------------------


def test_there_is_a_class_for_every_code_of_the_contract() -> None:
    assert set(errors.BY_CODE) == set(STATUS)
    assert all(cls.code == code for code, cls in errors.BY_CODE.items())


@pytest.mark.parametrize("code", sorted(set(STATUS) - {"overloaded", "draining"}))
def test_a_refusal_is_raised_as_its_class(code: str) -> None:
    reply = refusal(code, op="add", extra=[1])
    with pytest.raises(errors.BY_CODE[code]) as caught:
        drive(RUN, [reply], RetryPolicy(attempts=1))
    error = caught.value
    assert (error.code, error.status, error.request_id) == (code, STATUS[code], "r1")
    assert error.detail == f"no {code}"
    assert error.facts["extra"] == [1]
    assert str(error) == f"no {code}", "the class says the code"
    for name in error.fact_names:
        assert getattr(error, name) == error.facts.get(name)


def test_facts_are_attributes() -> None:
    reply = refusal(
        "shape_mismatch", op="add", operand="b", expected=[3, "n"], actual=[2], node_index=1
    )
    request = Request("POST", "/p", {}, sources=("a.py:1", "b.py:2"))
    with pytest.raises(errors.ShapeMismatch) as caught:
        drive(request, [reply])
    error = caught.value
    assert (error.op, error.operand, error.expected, error.actual) == ("add", "b", [3, "n"], [2])
    assert (error.node_index, error.source) == (1, "b.py:2")
    assert str(error) == "no shape_mismatch (appended at b.py:2)"


def test_the_servers_source_goes_before_the_clients() -> None:
    reply = refusal("shape_mismatch", node_index=0, source="there.py:9")
    with pytest.raises(errors.ShapeMismatch) as caught:
        drive(Request("POST", "/p", {}, sources=("here.py:1",)), [reply])
    assert caught.value.source == "there.py:9"


@pytest.mark.parametrize("index", [5, -1, "0", None])
def test_a_strange_node_index_names_no_source(index: object) -> None:
    with pytest.raises(errors.ShapeMismatch) as caught:
        drive(
            Request("POST", "/p", {}, sources=("here.py:1",)),
            [refusal("shape_mismatch", node_index=index)],
        )
    assert caught.value.source is None


def test_an_unknown_code_keeps_its_facts() -> None:
    body = wire_json.dumps(problem("brand_new", 422, "news", {"what": 7}))
    with pytest.raises(errors.GradwireError) as caught:
        drive(RUN, [Reply(422, {"content-type": PROBLEM}, body)])
    error = caught.value
    assert type(error) is errors.GradwireError
    assert (error.code, error.status, error.facts["what"]) == ("brand_new", 422, 7)
    assert str(error) == "brand_new: news"


@pytest.mark.parametrize(
    ("kind", "raw"), [("text/html", b"<html>"), (PROBLEM, b"{"), (JSON, b"[]"), ("", b"")]
)
def test_an_error_that_is_no_problem_body_is_named_by_its_status(kind: str, raw: bytes) -> None:
    with pytest.raises(errors.GradwireError) as caught:
        drive(RUN, [Reply(502, {"content-type": kind}, raw)])
    assert (caught.value.code, caught.value.status) == ("http_502", 502)
    assert "is it a Gradwire server" in str(caught.value) or kind == JSON


def test_errors_survive_pickling() -> None:
    error = errors.UnknownOp("no", status=422, facts={"op": "rleu", "suggestions": ["relu"]})
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is errors.UnknownOp
    assert (back.op, back.suggestions, str(back)) == ("rleu", ["relu"], "no")


# -- again -----------------------------------------------------------------------------------------


def test_a_busy_server_is_waited_for_as_long_as_it_says() -> None:
    answer, sent, waited = drive(RUN, [busy(after="2"), busy(status=429), OK])
    assert answer.document == {"ok": True}
    assert waited == [2.0, 0.2]
    assert len(sent) == 3


def test_clients_do_not_come_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradwire._protocol.random.random", lambda: 0.8)
    _, _, waited = drive(RUN, [busy(after="2"), Lost("unreached"), OK])
    assert waited == pytest.approx([2.4, 0.24])


def test_retry_after_may_be_a_date() -> None:
    date = email.utils.formatdate(time.time() + 10, usegmt=True)
    _, _, (seconds,) = drive(RUN, [busy(after=date), OK])
    assert 5 < seconds <= 10
    _, _, waited = drive(RUN, [busy(after="soon"), OK])
    assert waited == [0.1]


def test_patience_has_an_end() -> None:
    with pytest.raises(errors.Overloaded) as caught:
        drive(RUN, [busy(after="0")] * 4)
    assert (caught.value.reason, caught.value.retry_after) == ("full", 0.0)


def test_a_long_wait_is_the_callers_decision() -> None:
    with pytest.raises(errors.Overloaded) as caught:
        drive(RUN, [busy(after="3600")])
    assert caught.value.retry_after == 3600


def test_a_broken_connection_is_tried_again_with_the_same_key() -> None:
    request = Request("POST", "/v1/sessions/s/nodes", {"nodes": []}, headers=idempotency_key())
    _, sent, waited = drive(request, [Lost("broken", "reset"), Lost("unreached"), OK])
    keys = {attempt.headers["Idempotency-Key"] for attempt in sent}
    assert len(sent) == 3
    assert len(keys) == 1
    assert waited == [0.1, 0.2]
    assert {body(attempt) for attempt in sent} == {b'{"nodes":[]}'}


def test_two_requests_have_two_keys() -> None:
    assert idempotency_key() != idempotency_key()


def test_what_cannot_be_repeated_is_not() -> None:
    request = Request("POST", "/p", {}, repeatable=False)
    with pytest.raises(
        errors.ConnectionFailed, match=r"the connection broke during POST /p: reset"
    ):
        drive(request, [Lost("broken", "reset")])
    _, sent, _ = drive(request, [Lost("unreached", "refused"), OK])
    assert len(sent) == 2, "a request that never arrived may always be sent again"


def test_a_timeout_is_not_tried_again() -> None:
    with pytest.raises(errors.TimedOut, match="longer than the timeout"):
        drive(RUN, [Lost("timeout", "read")])


def test_no_server_at_all() -> None:
    with pytest.raises(errors.ConnectionFailed, match="no server could be reached"):
        drive(RUN, [Lost("unreached", "refused")] * 2, RetryPolicy(attempts=2))


def test_a_delete_whose_answer_was_lost_is_done() -> None:
    gone = refusal("session_not_found", session="s")
    request = Request("DELETE", "/v1/sessions/s")
    answer, _, _ = drive(request, [Lost("broken"), gone])
    assert answer.status == 204
    with pytest.raises(errors.SessionNotFound):
        drive(request, [gone])


@pytest.mark.parametrize("make", [lambda: refusal("shape_mismatch"), lambda: refusal("internal")])
def test_other_refusals_stand(make: Callable[[], Reply]) -> None:
    with pytest.raises(errors.GradwireError):
        drive(RUN, [make()])
