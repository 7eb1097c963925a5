"""Trains a classifier of handwritten digits through a Gradwire server, op by op and over HTTP.

The server does the computing: this program declares the graph, sends batches, and receives losses
and gradients. On the way it checks a JVP against a VJP, draws the graph and its derivative, and
makes a mistake on purpose.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from graph_picture import Box, draw
from local_server import server
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import gradwire as gw

Floats = NDArray[np.float32]
Params = dict[str, Floats]

PIXELS, CLASSES, BATCH = 64, 10, 64


def main() -> None:
    """Run the whole job."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with server(options.url) as url, gw.connect(url) as client:
        print(f"The server is at {url}")
        graph = declare(client, options.hidden)
        loss, logits = graph.function(graph["loss"]), graph.function(graph["logits"])
        x_train, x_test, y_train, y_test = data()
        params, losses = train(loss, (x_train, y_train), options)
        scores = logits.vmap(x=0)(inputs={"x": x_test, **params})
        accuracy = float(np.mean(scores.argmax(axis=1) == y_test))
        compare_modes(logits, x_test, params)
        show_error(graph)
        draw_graphs(graph, options.out)
    draw_losses(losses, options.out / "loss.png")
    print(f"\nTest accuracy: {accuracy:.1%} of {len(y_test)} digits")
    print(f"Pictures: {', '.join(sorted(str(p) for p in options.out.iterdir()))}")
    print(f"Time: {time.perf_counter() - began:.1f} s")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data (default 20)")
    parser.add_argument("--hidden", type=int, default=64, help="hidden units (default 64)")
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate (default 0.1)")
    parser.add_argument("--url", help="a server that runs already (default: start one)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where pictures go")
    return parser.parse_args()


def declare(client: gw.Client, hidden: int) -> gw.Session:
    """The model for one digit, op by op; a batch is a transform of it."""
    graph = client.session(
        {
            "x": (PIXELS,),
            "label": ((), "int64"),
            "w1": (hidden, PIXELS),
            "b1": (hidden,),
            "w2": (CLASSES, hidden),
            "b2": (CLASSES,),
        }
    )
    h = graph.linear(graph["w1"], graph["b1"], graph["x"], name="h").tanh(name="t")
    logits = graph.linear(graph["w2"], graph["b2"], h, name="logits")
    loss = graph.cross_entropy(logits, graph["label"], name="loss")
    print(f"The graph has {len(graph.inputs)} inputs; its last value is {loss!r}")
    return graph


def data() -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Digits of 8 x 8 pixels, scaled to [0, 1], three quarters of them to learn from."""
    images, labels = load_digits(return_X_y=True)
    x = (images / 16.0).astype(np.float32)
    y = labels.astype(np.int64)
    parts = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    return parts[0], parts[1], parts[2], parts[3]


def train(
    loss: gw.Function[Floats],
    samples: tuple[Floats, NDArray[np.int64]],
    options: argparse.Namespace,
) -> tuple[Params, list[float]]:
    """Gradient descent with momentum: the server answers each batch with its mean gradients."""
    rng = np.random.default_rng(0)
    params = initial(options.hidden, rng)
    speed = {name: np.zeros_like(value) for name, value in params.items()}
    batched = loss.vmap(x=0, label=0)
    steps = list(batches(len(samples[0]), options.epochs, rng))
    losses: list[float] = []
    for chosen in tqdm(steps, desc="training", unit="batch", mininterval=0.25):
        value, gradients = batched.value_and_grad(
            wrt=list(params),
            reduce="mean",
            inputs={"x": samples[0][chosen], "label": samples[1][chosen], **params},
        )
        for name, gradient in gradients.items():
            speed[name] = 0.9 * speed[name] - options.rate * gradient
            params[name] = params[name] + speed[name]
        losses.append(float(value))
    return params, losses


def initial(hidden: int, rng: np.random.Generator) -> Params:
    """Small random weights, no bias."""
    shapes = {"w1": (hidden, PIXELS), "w2": (CLASSES, hidden)}
    params = {
        name: rng.normal(0.0, shape[1] ** -0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    biases = {"b1": np.zeros(hidden, np.float32), "b2": np.zeros(CLASSES, np.float32)}
    return {**params, **biases}


def batches(count: int, epochs: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The indices of each batch; every epoch in another order."""
    for _ in range(epochs):
        # Parts of about equal size: a last batch of three would jerk the model about.
        yield from np.array_split(rng.permutation(count), max(1, count // BATCH))


def compare_modes(logits: gw.Function[Floats], x: Floats, params: Params) -> None:
    """Check <J v, g> = <v, J^T g> for a random direction v and a random cotangent g."""
    rng = np.random.default_rng(1)
    v = {name: rng.normal(size=p.shape).astype(np.float32) for name, p in params.items()}
    mapped, point = logits.vmap(x=0), {"x": x, **params}
    _, pushed = mapped.jvp(v, inputs=point)
    g = rng.normal(size=pushed.shape).astype(np.float32)
    _, pulled = mapped.vjp(g, wrt=list(params), reduce="sum", inputs=point)
    forward = inner({"": pushed}, {"": g})
    reverse = inner(v, pulled)
    difference = abs(forward - reverse) / abs(forward)
    print("\nForward against reverse mode, the Jacobian J of all test logits by all parameters:")
    print(f"  <J v, g>   = {forward:.4f}  by one JVP")
    print(f"  <v, J^T g> = {reverse:.4f}  by one VJP; relative difference {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("JVP and VJP disagree")


def inner(a: Mapping[str, Floats], b: Mapping[str, Floats]) -> float:
    """The inner product of two sets of arrays, summed in float64."""
    return float(sum(np.vdot(a[name].astype(np.float64), b[name]) for name in a))


def show_error(graph: gw.Session) -> None:
    """What a wrong operand is answered with."""
    print("\nA mistake on purpose, the first layer applied to the logits:")
    try:
        graph.linear(graph["w1"], graph["b1"], graph["logits"])
    except gw.errors.ShapeMismatch as error:
        print(f"  {type(error).__name__}: {error.detail}")
        print(f"  op={error.op!r} operand={error.operand!r}", end=" ")
        print(f"expected={error.expected} actual={error.actual}")
        print(f"  source={error.source!r}")
    else:
        raise SystemExit("the mistake went unnoticed")


def draw_graphs(graph: gw.Session, out: Path) -> None:
    """Draw the graph, and the graph that the server derives from it for the gradients."""
    draw(boxes(graph), out / "graph.svg", "The loss of one digit")
    derived = graph.transform("vjp", outputs=["loss"], wrt=["w1", "b1", "w2", "b2"])
    draw(
        boxes(derived),
        out / "gradient-graph.svg",
        "The same with its gradients: tangent rules are green, cotangents red",
    )


def boxes(graph: gw.Session) -> dict[int, Box]:
    """A session's values as boxes."""
    found = {
        handle.id: Box((), name, str(list(handle.shape)), "input")
        for name, handle in graph.inputs.items()
    }
    for node in graph.nodes():
        title = node["op"] if node["name"] is None else f"{node['name']} = {node['op']}"
        origin = node.get("origin")
        kind = "node" if origin is None else origin["role"]
        found[node["id"]] = Box(node["inputs"], title, str(node["shape"]), kind)
    return found


def draw_losses(losses: list[float], path: Path) -> None:
    """The loss of each batch, and their running mean."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    width = min(20, len(losses))
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axes.plot(losses, color="#b9c9de", label="batch")
    axes.plot(np.arange(len(smooth)) + width - 1, smooth, color="#2b5c9e", label=f"mean of {width}")
    axes.set(xlabel="batch", ylabel="cross entropy", yscale="log", title="Training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
