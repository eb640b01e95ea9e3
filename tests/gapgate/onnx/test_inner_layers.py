"""The network with further outputs, against the network itself."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from gapgate.errors import ArtifactError, DataError
from gapgate.network import architecture, modules
from gapgate.network.export import export_onnx
from gapgate.network.layers import Activation, Conv, Dense, Flatten, GlobalAveragePool
from gapgate.onnx.classifier import Classifier, open_session
from gapgate.onnx.inner_layers import InnerLayers, stretched
from gapgate.onnx.inner_layers_export import open_inner_layers, write_inner_layers
from tests.gapgate.onnx_models import digits, fit_cnn, write_linear

SHAPE = (33, 40, 3)
NETWORKS = [*architecture.PRESETS, "torchvision/resnet18", "torchvision/mobilenet_v3_small"]


def pictures(count, shape=SHAPE):
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def export(folder, name_or_layers, shape=SHAPE):
    """A package's folder with model.onnx and the two files."""
    torch.manual_seed(0)
    layers = architecture.resolve(name_or_layers, shape, 5)
    name = architecture.torchvision_name(name_or_layers)
    model = modules.build_torchvision(name, shape, 5, pretrained=False) if name else modules.build(layers, shape, 5)
    export_onnx(model, shape, [0.4] * shape[2], [0.2] * shape[2], folder / "model.onnx")
    write_inner_layers(folder / "model.onnx", folder)
    return folder


@pytest.fixture(scope="module", params=NETWORKS)
def package(request, tmp_path_factory):
    return export(tmp_path_factory.mktemp("package"), request.param)


@pytest.fixture
def digits_package(tmp_path):
    images, labels = digits()
    fit_cnn(tmp_path / "model.onnx", images[:200], labels[:200])
    write_inner_layers(tmp_path / "model.onnx", tmp_path)
    return tmp_path


def test_the_two_files_after_each_other_are_one_model_with_the_same_logits(package):
    content = (package / "model.onnx").read_bytes() + (package / "inner_layers.pb").read_bytes()
    (logits,) = open_session(content).run(["logits"], {"images": pictures(7)})
    np.testing.assert_allclose(logits, Classifier.load(package / "model.onnx").logits(pictures(7)), rtol=0, atol=1e-5)


def test_nothing_but_outputs_is_added(package):
    added = onnx.ModelProto.FromString((package / "inner_layers.pb").read_bytes())
    assert added == onnx.ModelProto(graph=onnx.GraphProto(output=added.graph.output))
    merged = onnx.ModelProto.FromString((package / "model.onnx").read_bytes() + added.SerializeToString())
    del merged.graph.output[1:]
    assert merged == onnx.load(package / "model.onnx")


def test_the_last_layer_makes_the_logits_of_the_embedding(package):
    graph = onnx.load(package / "model.onnx").graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    head = [node for node in graph.node if node.op_type == "Gemm"][-1]
    layers = InnerLayers.load(package)
    embeddings = layers.embeddings(pictures(7), batch_size=3)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (7, layers.embedding_size)
    logits = Classifier.load(package / "model.onnx").logits(pictures(7))
    expected = embeddings @ weights[head.input[1]].T + weights[head.input[2]]
    np.testing.assert_allclose(expected, logits, rtol=0, atol=1e-4)


def test_the_stated_names_and_shapes_are_those_of_the_maps(package):
    layers = InnerLayers.load(package)
    maps = layers.feature_maps(pictures(1)[0])
    stated = json.loads((package / "inner_layers.json").read_text())["layers"]
    assert [(layer.layer, list(layer.maps.shape)) for layer in maps] == [(e["name"], e["shape"]) for e in stated]
    assert [int(layer["name"].split()[0]) for layer in stated] == list(range(1, len(stated) + 1))


def test_the_maps_are_what_each_layer_gives(digits_package):
    image = digits()[0][0]
    conv, relu, pooled = InnerLayers.load(digits_package).feature_maps(image)
    assert [layer.layer for layer in (conv, relu, pooled)] == ["1 convolution", "2 ReLU", "3 max pool"]
    np.testing.assert_array_equal(relu.maps, np.maximum(conv.maps, 0))
    np.testing.assert_array_equal(pooled.maps, relu.maps.reshape(8, 4, 2, 4, 2).max(axis=(2, 4)))
    np.testing.assert_array_equal(InnerLayers.load(digits_package).embeddings(image[None])[0], pooled.maps.ravel())


def test_the_first_layers_alone_can_be_had(digits_package):
    maps = InnerLayers.load(digits_package).feature_maps(digits()[0][0], max_layers=2)
    assert [layer.layer for layer in maps] == ["1 convolution", "2 ReLU"]


def test_a_deep_network_has_all_its_layers(tmp_path):
    maps = InnerLayers.load(export(tmp_path, "torchvision/resnet18")).feature_maps(pictures(1)[0])
    names = [layer.layer for layer in maps]
    assert sum(name.endswith("convolution") for name in names) == 20
    assert names[0] == "1 convolution"


def test_a_network_without_convolutions_has_an_embedding_and_no_maps(tmp_path):
    write_linear(tmp_path / "model.onnx", np.ones((64, 10)), np.zeros(10), (8, 8, 1))
    layers = open_inner_layers(onnx.load(tmp_path / "model.onnx"))
    images = digits()[0][:3]
    assert layers.feature_maps(images[0]) == []
    np.testing.assert_allclose(layers.embeddings(images), images.reshape(3, 64) / np.float32(255), rtol=1e-6)


def test_a_network_without_a_dense_layer_has_maps_and_no_embedding(tmp_path):
    layers = InnerLayers.load(export(tmp_path, (Conv(filters=5), GlobalAveragePool())))
    assert layers.embedding_size is None
    assert len(layers.feature_maps(pictures(1)[0])) == 1
    with pytest.raises(DataError, match="no embedding"):
        layers.embeddings(pictures(1))


def test_maps_of_one_pixel_are_no_pictures(tmp_path):
    layers = (Conv(filters=4), Activation(), Conv(filters=4, kernel=8, padding="valid"), Flatten(), Dense())
    maps = InnerLayers.load(export(tmp_path, layers, (8, 8, 1))).feature_maps(pictures(1, (8, 8, 1))[0])
    assert [layer.layer for layer in maps] == ["1 convolution", "2 ReLU"]


def test_no_images_give_no_embeddings(digits_package):
    assert InnerLayers.load(digits_package).embeddings(digits()[0][:0]).shape == (0, 128)


def test_threads_that_come_first_together_get_the_same_answer(digits_package):
    layers, images = InnerLayers.load(digits_package), digits()[0][:16]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: layers.embeddings(image[None])[0], images))
    np.testing.assert_array_equal(found, InnerLayers.load(digits_package).embeddings(images, batch_size=1))


def test_a_model_is_not_opened_before_it_is_asked(digits_package):
    (digits_package / "model.onnx").rename(digits_package / "away")
    layers = InnerLayers.load(digits_package)
    (digits_package / "away").rename(digits_package / "model.onnx")
    assert layers.feature_maps(digits()[0][0])


@pytest.mark.parametrize("name", ["inner_layers.json", "inner_layers.pb"])
def test_a_missing_file_is_named(digits_package, name):
    (digits_package / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        InnerLayers.load(digits_package)


def test_equal_models_give_equal_files(digits_package, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copyfile(digits_package / "model.onnx", other / "model.onnx")
    write_inner_layers(other / "model.onnx", other)
    for name in ("inner_layers.json", "inner_layers.pb"):
        assert (other / name).read_bytes() == (digits_package / name).read_bytes()


def test_maps_are_stretched_each_by_itself():
    maps = np.array([[[-2, 2]], [[5, 5]], [[0, 1e-3]]], np.float32)
    np.testing.assert_array_equal(stretched(maps), [[[0, 1]], [[0, 0]], [[0, 1]]])


def test_what_serving_imports_brings_no_training_library():
    code = """
import sys
from gapgate.onnx import embedding_index, inner_layers, occlusion
print([name for name in ("onnx", "torch", "sklearn", "matplotlib", "pyarrow", "scipy") if name in sys.modules])
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
