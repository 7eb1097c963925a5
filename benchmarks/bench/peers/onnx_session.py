"""ONNX Runtime, forward only: the case's function writes an ONNX model, a session runs it.

It stands beside the others and not in the ratio, since it has no derivatives.
"""

# ruff: noqa: D102  the words are described where they are declared, in `cases.Words`

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..cases import EPS, Array, Case, Data
from . import Thunk

onnx: Any = import_module("onnx")
runtime: Any = import_module("onnxruntime")

OPSET, IR_VERSION = 20, 10


class Name:
    """A value of a growing model, with the operators that the cases use."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name

    def op(self, kind: str, *others: Name, **attributes: Any) -> Name:
        """A new node whose first operand is this value."""
        return self.model.node(kind, (self, *others), attributes)

    def __add__(self, other: Name) -> Name:
        return self.op("Add", other)

    def __sub__(self, other: Name) -> Name:
        return self.op("Sub", other)

    def __mul__(self, other: Name) -> Name:
        return self.op("Mul", other)

    def __neg__(self) -> Name:
        return self.op("Neg")


class Model:
    """The nodes and constants of a model."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, operands: Sequence[Name], attributes: dict[str, Any]) -> Name:
        """Append a node; its result."""
        result = f"v{len(self.nodes)}"
        names = [operand.name for operand in operands]
        self.nodes.append(onnx.helper.make_node(kind, names, [result], **attributes))
        return Name(self, result)

    def constant(self, value: Any, dtype: type = np.int64) -> Name:
        """A constant tensor."""
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return Name(self, name)

    def session(self, case: Case, result: Name, threads: int) -> Any:
        """An inference session for the model."""
        proto = onnx.TensorProto
        specs = [
            onnx.helper.make_tensor_value_info(
                d.name, proto.INT64 if d.labels else proto.FLOAT, list(d.shape)
            )
            for d in case.inputs
        ]
        outputs = [onnx.helper.make_tensor_value_info(result.name, proto.FLOAT, None)]
        graph = onnx.helper.make_graph(self.nodes, case.name, specs, outputs, self.constants)
        opset = [onnx.helper.make_opsetid("", OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


class OnnxWords:
    """The vocabulary in ONNX operators."""

    def sum(self, x: Name) -> Name:
        return x.op("ReduceSum", keepdims=0)

    def mean(self, x: Name) -> Name:
        return x.op("ReduceMean", keepdims=0)

    def exp(self, x: Name) -> Name:
        return x.op("Exp")

    def tanh(self, x: Name) -> Name:
        return x.op("Tanh")

    def sigmoid(self, x: Name) -> Name:
        return x.op("Sigmoid")

    def softplus(self, x: Name) -> Name:
        return x.op("Softplus")

    def relu(self, x: Name) -> Name:
        return x.op("Relu")

    def gelu(self, x: Name) -> Name:
        return x.op("Gelu")

    def softmax(self, x: Name) -> Name:
        return x.op("Softmax", axis=-1)

    def layer_norm(self, x: Name, gamma: Name, beta: Name) -> Name:
        return x.op("LayerNormalization", gamma, beta, axis=-1, epsilon=EPS)

    def matmul(self, a: Name, b: Name) -> Name:
        return a.op("MatMul", b)

    def dense(self, x: Name, w: Name, b: Name) -> Name:
        return x.op("Gemm", w, b)

    def linear(self, x: Name, w: Name, b: Name) -> Name:
        return x.op("Gemm", w, b, transB=1)

    def attention(self, x: Name, wq: Name, wk: Name, wv: Name, wo: Name, heads: int) -> Name:
        depth = x.op("Shape", start=1, end=2).op("Div", x.model.constant([heads]))
        split = x.model.constant([0, heads]).op("Concat", depth, axis=0)
        q, k, v = (x.op("MatMul", w).op("Reshape", split) for w in (wq, wk, wv))
        root = depth.op("Cast", to=onnx.TensorProto.FLOAT).op("Sqrt")
        q, v = (part.op("Transpose", perm=[1, 0, 2]) for part in (q, v))
        scores = q.op("MatMul", k.op("Transpose", perm=[1, 2, 0])).op("Div", root)
        mixed = scores.op("Softmax", axis=-1).op("MatMul", v).op("Transpose", perm=[1, 0, 2])
        return mixed.op("Reshape", x.model.constant([0, -1])).op("MatMul", wo)

    def conv(self, x: Name, w: Name, b: Name | None, stride: int, padding: int) -> Name:
        more = () if b is None else (b,)
        return x.op("Conv", w, *more, strides=[stride] * 2, pads=[padding] * 4)

    def _pool(self, kind: str, x: Name, kernel: int, stride: int) -> Name:
        """Pools take a batch; the pooling cases are one image, the models have a batch."""
        single = x.name == "x"
        batch = x.op("Unsqueeze", x.model.constant([0])) if single else x
        pooled = batch.op(kind, kernel_shape=[kernel] * 2, strides=[stride] * 2)
        return pooled.op("Squeeze", x.model.constant([0])) if single else pooled

    def max_pool(self, x: Name, kernel: int, stride: int) -> Name:
        return self._pool("MaxPool", x, kernel, stride)

    def avg_pool(self, x: Name, kernel: int, stride: int) -> Name:
        return self._pool("AveragePool", x, kernel, stride)

    def flatten(self, x: Name, keep: int) -> Name:
        return x.op("Flatten", axis=keep)

    def cross_entropy(self, logits: Name, labels: Name) -> Name:
        return logits.op("SoftmaxCrossEntropyLoss", labels, reduction="mean")


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    def __init__(self, threads: int = 2, **_: Any) -> None:
        self.threads = threads

    def versions(self) -> dict[str, str]:
        """Its own and ONNX's."""
        return {"onnxruntime": runtime.__version__, "onnx": onnx.__version__}

    def spellings(
        self, case: Case, mode: str, data: Data
    ) -> Iterator[tuple[str, Callable[[], Thunk]]]:
        """A session's run; nothing but forward."""
        if mode != "forward":
            return

        def made() -> Thunk:
            model = Model()
            result = case.function(OnnxWords(), *(Name(model, d.name) for d in case.inputs))
            session = model.session(case, result, self.threads)
            return lambda: session.run(None, data.inputs)

        yield "session.run", made

    def arrays(self, result: Any) -> list[Array]:
        """The arrays as they come."""
        return list(result)
