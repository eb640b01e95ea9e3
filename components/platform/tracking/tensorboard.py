"""TensorBoard: the figures and pictures of a step, written as event files beside its run while it works.

The writer is tensorboardX's and not torch's, since most steps run where there is no torch.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.platform.tracking.spool import Spool

FOLDER = "tensorboard"
"""Name of the folder with the event files, in a run's folder and among the artifacts of the MLflow run."""
_FLUSH_S = 1
"""Longest time until an event is in the file, where TensorBoard sees it."""
_NOT_NEEDED = ("torch", "boto3", "google.cloud.storage")
"""Packages that tensorboardX 2.6.5 imports where they are installed, to take tensors and to write to buckets. Without
them its import takes 0.2 s of CPU time and 31 MB, with them 2.6 s and 700 MB."""


class TensorBoardSpool(Spool):
    """A spool that also writes events: figures as scalars, each PNG as an image, an ONNX file as the graph. At its end
    the event file becomes one of the files to keep with the run."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        super().metrics(values, step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def file(self, path: Path, folder: str = "") -> None:
        super().file(path, folder)
        if path.suffix == ".png":
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))  # (H, W, 3) uint8
            self._writer.add_image(f"{folder}/{path.stem}", pixels, dataformats="HWC")
        elif path.suffix == ".onnx":
            model = io.BytesIO(_in_scopes(path).SerializeToString())
            with contextlib.redirect_stdout(None):  # tensorboardX prints the name of each node
                self._writer.add_onnx_graph(model)

    def drawing(self, picture: Image.Image, key: str, step: int = 0) -> None:
        super().drawing(picture, key, step)
        self._writer.add_image(key, np.asarray(picture.convert("RGB")), step, dataformats="HWC")  # (H, W, 3) uint8

    def finished(self, summary: str, details: Sequence[str] = (), notes: Sequence[str] = (), verdict: str = "") -> None:
        self._close()
        super().finished(summary, details, notes, verdict)

    def failed(self, message: str, exit_code: int, trace: str = "", error: str = "") -> None:
        self._close()
        super().failed(message, exit_code, trace, error)

    @cached_property
    def _writer(self) -> Any:
        with _hidden(_NOT_NEEDED):
            from tensorboardX import SummaryWriter
        folder = str(self.folder.parent / FOLDER)
        return SummaryWriter(folder, flush_secs=_FLUSH_S, filename_suffix=f".{self.step}")

    def _close(self) -> None:
        # The property is cached once it was used: a step without figures leaves no file.
        if "_writer" in self.__dict__:
            self._writer.close()
            written = (self.folder.parent / FOLDER).glob(f"*.{self.step}")  # by time; one more for each further try
            super().file(max(written), FOLDER)


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Let imports of packages that nobody has imported yet fail within the block, as if they were not installed."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None stands for "not there"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _in_scopes(onnx_path: Path) -> Any:
    """A network whose nodes and weights are named by the scopes of their modules, as TensorBoard groups them.

    tensorboardX names a node by its first output, draws an edge where an input has the name of a node, and knows of
    inputs but not of weights, nor of the shapes between. So a node's output gets its own name, a weight becomes an
    input, and a shape becomes an attribute.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(onnx_path))
    graph = model.graph
    shapes = {value.name: _sizes(value) for value in (*graph.value_info, *graph.output)}
    names = {output: _scoped(node.name) for node in graph.node for output in node.output}
    for weight in graph.initializer:
        graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    for value in graph.input:
        value.name = _scoped(value.name)
        for size, dim in zip(_sizes(value), value.type.tensor_type.shape.dim, strict=True):
            dim.dim_value = size
    for node in graph.node:
        attributes = [found for found in node.attribute if found.type != onnx.AttributeProto.TENSOR]
        if sizes := shapes.get(node.output[0]):
            attributes.append(onnx.helper.make_attribute("output_shape", sizes))
        inputs = [names.get(name) or _scoped(name) for name in node.input if name]
        node.CopyFrom(onnx.NodeProto(op_type=node.op_type, input=inputs, output=[_scoped(node.name)]))
        node.attribute.extend(attributes)
    del graph.initializer[:], graph.output[:]
    return model


def _sizes(value: Any) -> list[int]:
    """The shape of a tensor; −1 is the batch."""
    return [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]


def _scoped(name: str) -> str:
    """`model.0_conv.weight` and `/model/0_conv/Conv` share the scope `model/0_conv`."""
    path = name if name.startswith("/") else name.replace(".", "/")
    return path.strip("/").replace("::", "_")
