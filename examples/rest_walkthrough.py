"""The whole service with nothing but an HTTP library: build a graph, run it, differentiate it.

This is what a client in any other language does. Run it with `python examples/rest_walkthrough.py`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from local_server import server


def call(method: str, url: str, body: object = None) -> Any:
    """Send JSON and read JSON; a refusal is an answer too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
    except urllib.error.HTTPError as refusal:
        text = refusal.read()
    return json.loads(text) if text else None


def main() -> None:
    """Walk through the service."""
    with server() as url:
        # A session is created with its inputs; then nodes are appended, one or many at a time.
        inputs = [{"name": "x", "shape": [3]}, {"name": "w", "shape": [2, 3]}]
        session = call("POST", f"{url}/v1/sessions", {"inputs": inputs})
        here = f"{url}/v1/sessions/{session['id']}"
        added = call(
            "POST",
            f"{here}/nodes",
            {
                "nodes": [
                    {"op": "const", "inputs": [], "attrs": {"value": [0.5, -0.5]}, "name": "b"},
                    {"op": "linear", "inputs": ["w", "b", "x"], "name": "h"},
                    {"op": "tanh", "inputs": ["h"], "name": "t"},
                    {"op": "sum", "inputs": ["t"], "name": "y"},
                ]
            },
        )
        for node in added["nodes"]:
            print(f"{node['id']:>3}  {node['name']} = {node['op']}{node['inputs']} {node['shape']}")

        point = {"x": [1.0, 2.0, 3.0], "w": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]}
        forward = call("POST", f"{here}/forward", {"inputs": point})
        print("forward   y      =", forward["outputs"]["y"]["data"])
        vjp = call("POST", f"{here}/vjp", {"inputs": point, "wrt": ["x"]})
        print("VJP       dy/dx  =", vjp["gradients"]["x"]["data"])
        tangents = {"x": [1.0, 0.0, 0.0]}
        jvp = call("POST", f"{here}/jvp", {"inputs": point, "tangents": tangents})
        print("JVP       dy/dx0 =", jvp["tangents"]["y"]["data"])

        # What does not fit is refused, with the facts in fields; the session stays as it was.
        refusal = call("POST", f"{here}/nodes", {"nodes": [{"op": "matmul", "inputs": ["w", "x"]}]})
        print(f"refused   {refusal['status']} {refusal['code']}: {refusal['detail']}")
        call("DELETE", here)


if __name__ == "__main__":
    main()
