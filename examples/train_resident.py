"""Trains a digit classifier whose weights never leave the server: each step moves only its batch.

The weights are resident tensors. The training step is one graph, made of the model's own by two
transforms and a few ops: mapped over a batch, differentiated, and one step of gradient descent
behind that. A run reads the weights by name and stores the new ones under the same names.
"""

from __future__ import annotations

import argparse

import numpy as np
from local_server import server
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradwire as gw

Floats = NDArray[np.float32]

PIXELS, HIDDEN, CLASSES, BATCH = 64, 128, 10, 64
SHAPES = {"w1": (HIDDEN, PIXELS), "b1": (HIDDEN,), "w2": (CLASSES, HIDDEN), "b2": (CLASSES,)}


def main() -> None:
    """Train, and look at the weights once, at the end."""
    options = arguments()
    x, x_test, y, y_test = data()
    with server(options.url) as url, gw.connect(url) as client:
        model = declare(client)
        step = training_step(model, options.rate)
        rng = np.random.default_rng(0)
        for name, shape in SHAPES.items():
            fan_in = shape[-1] if len(shape) > 1 else np.inf
            client.tensors[name] = rng.normal(0.0, fan_in**-0.5, shape).astype(np.float32)
        weights = {name: client.tensors[name] for name in SHAPES}  # references: nothing is fetched
        store = {f"outputs/{name}": name for name in SHAPES}

        value: Floats = np.array(np.inf, np.float32)
        for epoch in range(options.epochs):
            for chosen in rng.permutation(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH):
                batch: dict[str, gw.TensorLike] = {
                    "x": x[chosen],
                    "label": y[chosen],
                    "cotangent.mean": 1.0,
                }
                value = step({**batch, **weights}, store=store)["mean"]
            if epoch % 5 == 4:
                print(f"epoch {epoch + 1:3}: loss {float(value):.4f}")

        sent = x[:BATCH].nbytes + y[:BATCH].nbytes
        kept = sum(weight.nbytes for weight in weights.values())
        print(f"Each step sends a batch of {sent:,} bytes; {kept:,} bytes of weights stay.")
        print(f"Version {weights['w1'].version} of w1 has shape {weights['w1'].shape}")

        logits = model.function("logits").vmap(x=0)(inputs={"x": x_test, **weights})
        accuracy = float(np.mean(logits.argmax(axis=1) == y_test))
        print(f"Test accuracy: {accuracy:.1%} of {len(y_test)} digits")
        np.savez(options.out, allow_pickle=False, **{n: w.numpy() for n, w in weights.items()})
        print(f"The weights are in {options.out}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data (default 20)")
    parser.add_argument("--rate", type=float, default=0.5, help="learning rate (default 0.5)")
    parser.add_argument("--url", help="a server that runs already (default: start one)")
    parser.add_argument("--out", default="weights.npz", help="where the weights go at the end")
    return parser.parse_args()


def data() -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Digits of 8 x 8 pixels, scaled to [0, 1], three quarters of them to learn from."""
    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16.0).astype(np.float32), labels.astype(np.int64)
    parts = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    return parts[0], parts[1], parts[2], parts[3]


def declare(client: gw.Client) -> gw.Session:
    """The model for one digit."""
    g = client.session({"x": (PIXELS,), "label": ((), "int64"), **SHAPES})
    h = g.linear(g["w1"], g["b1"], g["x"]).tanh()
    logits = g.linear(g["w2"], g["b2"], h, name="logits")
    g.cross_entropy(logits, g["label"], name="loss")
    return g


def training_step(model: gw.Session, rate: float) -> gw.Function[dict[str, Floats]]:
    """From a batch and weights to the mean loss and new weights."""
    batched = model.transform("vmap", axis_size=BATCH, in_axes={"x": 0, "label": 0})
    batched.reduce_mean(batched.outputs["loss"], axis=0, name="mean")
    step = batched.transform("vjp", outputs=["mean"], wrt=list(SHAPES))
    with step.batch():
        new = {w: step[w] - rate * step.outputs[f"gradient.{w}"] for w in SHAPES}
    return step.function(mean="mean", **new)


if __name__ == "__main__":
    main()
