"""The ONNX file against the torch module it came from."""

import subprocess
import sys
from copy import deepcopy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from gapgate.network import architecture, modules
from gapgate.network.export import OPSET, export_onnx
from gapgate.network.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Dropout2d,
    Flatten,
    GlobalAveragePool,
    Pool,
)

MEAN, STD = [0.2, 0.4, 0.6], [0.3, 0.2, 0.1]
SHAPE = (11, 9, 3)
LAYER_LISTS = {
    "same": (Conv(filters=4), Flatten(), Dense()),
    "uneven same": (Conv(filters=4, kernel=4, stride=2), Flatten(), Dense()),
    "valid": (Conv(filters=4, kernel=3, padding="valid", bias=False), Flatten(), Dense()),
    "padded": (Conv(filters=4, kernel=3, padding=2, stride=2), Flatten(), Dense()),
    "max pool": (Pool(), Flatten(), Dense()),
    "max pool moved": (Conv(filters=4), Activation(), Pool(size=3, stride=2), Flatten(), Dense()),
    "average pool": (Pool(kind="average", size=3, stride=2), Flatten(), Dense()),
    "batch norm of maps": (Conv(filters=4), BatchNorm(), Flatten(), Dense()),
    "batch norm of features": (Flatten(), Dense(units=6), BatchNorm(), Dense()),
    "dropout": (Dropout2d(), Flatten(), Dropout(), Dense()),
    "global average pool": (Conv(filters=4), GlobalAveragePool(), Dense()),
    **{
        name: (Conv(filters=4), Activation(function=name), Flatten(), Dense())
        for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu")
    },
}


def warmed(model, channels=3):
    """`model` after a step in training mode, so that its running statistics are not the first ones."""
    with torch.no_grad():
        model.train()(torch.randn(16, channels, *SHAPE[:2]))
    return model


def exported(model, path, image_shape=SHAPE, mean=MEAN, std=STD):
    export_onnx(model, image_shape, mean, std, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def assert_same_logits(model, session, image_shape=SHAPE, mean=MEAN, std=STD):
    model = deepcopy(model).eval()
    for count in (1, 7):
        images = np.random.default_rng(count).integers(0, 256, (count, *image_shape), dtype=np.uint8)
        with torch.no_grad():
            expected = model(modules.normalise(torch.tensor(images), torch.tensor(mean), torch.tensor(std))).numpy()
        (logits,) = session.run(["logits"], {"images": images})
        assert logits.dtype == np.float32
        assert logits.shape == (count, 5)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LAYER_LISTS)
def test_every_layer_type_gives_the_logits_of_torch(name, tmp_path):
    torch.manual_seed(0)
    model = warmed(modules.build(LAYER_LISTS[name], SHAPE, 5))
    assert_same_logits(model, exported(model, tmp_path / "model.onnx"))


@pytest.mark.parametrize("name", architecture.PRESETS)
def test_every_preset_gives_the_logits_of_torch(name, tmp_path):
    torch.manual_seed(0)
    model = warmed(modules.build(architecture.resolve(name, SHAPE, 5), SHAPE, 5))
    assert_same_logits(model, exported(model, tmp_path / "model.onnx"))


def test_gray_images_give_the_logits_of_torch(tmp_path):
    torch.manual_seed(0)
    shape, mean, std = (11, 9, 1), [0.3], [0.2]
    model = warmed(modules.build(architecture.resolve("tutorial", shape, 5), shape, 5), channels=1)
    session = exported(model, tmp_path / "model.onnx", shape, mean, std)
    assert_same_logits(model, session, shape, mean, std)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_classifiers_give_the_logits_of_torch(name, tmp_path):
    torch.manual_seed(0)
    shape, mean, std = (33, 40, 1), [0.3], [0.2]
    model = modules.build_torchvision(name, shape, 5, pretrained=False)
    assert_same_logits(model, exported(model, tmp_path / "model.onnx", shape, mean, std), shape, mean, std)


def test_the_file_states_its_interface_and_holds_its_weights(tmp_path):
    model = modules.build(architecture.resolve("dense", SHAPE, 5), SHAPE, 5)
    session = exported(model, tmp_path / "model.onnx")
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", *SHAPE])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 5])
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    graph = onnx.load(tmp_path / "model.onnx")
    assert {opset.domain: opset.version for opset in graph.opset_import} == {"": OPSET}


def test_the_same_model_gives_the_same_bytes_without_a_path_in_them(tmp_path):
    torch.manual_seed(0)
    model = warmed(modules.build(architecture.resolve("small", SHAPE, 5), SHAPE, 5))
    for name in ("a.onnx", "b.onnx"):
        export_onnx(model, SHAPE, MEAN, STD, tmp_path / name)
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert not any(text in content for text in (b"gapgate", b".py", b"/home", str(tmp_path).encode()))


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = modules.build(architecture.resolve("small", SHAPE, 5), SHAPE, 5).to(memory_format=torch.channels_last)
    modules.set_generator(model, torch.Generator())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model.train(), SHAPE, MEAN, STD, tmp_path / "model.onnx")
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_and_exporting_import_neither_dynamo_nor_torchvision(tmp_path):
    code = f"""
import sys, torch
from pathlib import Path
from gapgate.network import architecture, export, modules
from gapgate.training.augmentation import operations as augmentation, policy
model = modules.build(architecture.resolve("small", (8, 8, 1), 10), (8, 8, 1), 10)
augment = augmentation.compile_policy([policy.Rotate(), policy.Mixup()], 10)
images, targets = augment(torch.rand(4, 1, 8, 8), torch.arange(4), torch.Generator())
torch.nn.functional.cross_entropy(model(images), targets).backward()
export.export_onnx(model, (8, 8, 1), [0.5], [0.5], Path({str(tmp_path)!r}) / "model.onnx")
print([name for name in ("torch._dynamo", "torchvision") if name in sys.modules])
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
