"""TensorBoard: what a step reports, written as event files beside its run while it works.

With TensorBoard's own writer and not torch's: most steps run where there is no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from components.platform.spool import Spool

FOLDER = "tensorboard"
"""Of a run's folder, and of the MLflow run's artifacts."""
_GRAPH_VERSION = 22
"""Of GraphDef; from 21 on TensorBoard reads it without changing it first."""


class TensorBoardSpool(Spool):
    """A spool that also writes events: figures as scalars, each PNG as an image, an ONNX file as the graph. At its end
    the event file becomes one of the files to keep with the run."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        super().metrics(values, step)
        scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._show(summary=Summary(value=scalars), step=step)

    def file(self, path: Path, folder: str = "") -> None:
        super().file(path, folder)
        if path.suffix == ".png":
            with Image.open(path) as image:
                picture = Summary.Image(width=image.width, height=image.height, encoded_image_string=path.read_bytes())
            self._show(summary=Summary(value=[Summary.Value(tag=f"{folder}/{path.stem}", image=picture)]))
        elif path.suffix == ".onnx":
            self._show(graph_def=graph_of(path).SerializeToString())

    def finished(self, summary: str) -> None:
        self._close()
        super().finished(summary)

    def failed(self, message: str, exit_code: int, trace: str = "") -> None:
        self._close()
        super().failed(message, exit_code, trace)

    @cached_property
    def _writer(self) -> Any:
        return EventFileWriter(str(self.folder.parent / FOLDER), filename_suffix=f".{self.step}")

    def _show(self, **content: Any) -> None:
        self._writer.add_event(Event(wall_time=time.time(), **content))
        self._writer.flush()

    def _close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()
            written = (self.folder.parent / FOLDER).glob(f"*.{self.step}")  # by time; one more for each further try
            super().file(max(written), FOLDER)


def graph_of(onnx_path: Path) -> Any:
    """A network as TensorBoard's GraphDef: nodes and weights in the scopes of their modules, and the shapes between."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(onnx_path)).graph
    shapes = {value.name: value.type.tensor_type.shape for value in (*graph.input, *graph.value_info, *graph.output)}
    makers = {output: _scoped(node.name) for node in graph.node for output in node.output}
    nodes = [
        NodeDef(name=_scoped(value.name), op="Placeholder", attr=_shape(shapes, value.name)) for value in graph.input
    ]
    nodes += [NodeDef(name=_scoped(weight.name), op="Const") for weight in graph.initializer]
    for node in graph.node:
        inputs = [makers.get(name) or _scoped(name) for name in node.input if name]
        attributes = dict(_attributes(node)) | _shape(shapes, node.output[0])
        nodes.append(NodeDef(name=_scoped(node.name), op=node.op_type, input=inputs, attr=attributes))
    return GraphDef(node=nodes, versions=VersionDef(producer=_GRAPH_VERSION))


def _scoped(name: str) -> str:
    """`model.0_conv.weight` and `/model/0_conv/Conv` share the scope `model/0_conv`."""
    path = name if name.startswith("/") else name.replace(".", "/")
    return path.strip("/").replace("::", "_")


def _attributes(node: Any) -> Iterator[tuple[str, Any]]:
    import onnx

    for attribute in node.attribute:
        if attribute.type != onnx.AttributeProto.TENSOR:
            value = onnx.helper.get_attribute_value(attribute)
            yield attribute.name, AttrValue(s=str(value).encode())


def _shape(shapes: Mapping[str, Any], tensor: str) -> dict[str, Any]:
    """The shape of a tensor, as TensorBoard writes it on an edge; −1 is the batch."""
    if tensor not in shapes:
        return {}
    sizes = [TensorShapeProto.Dim(size=dim.dim_value or -1) for dim in shapes[tensor].dim]
    return {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=[TensorShapeProto(dim=sizes)]))}
