"""Feature extractors from ONNX files: what they compute in training is what the exported graph computes."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gapgate.errors import SettingsError
from gapgate.network import backbones, modules
from gapgate.network.export import export_onnx
from gapgate.onnx.classifier import Classifier
from gapgate.settings.sections import TrainSettings

SIZE_PX = 24


def extractor(seed=0):
    """A small network whose features are a map of one pixel, as those of a network that ends with pooling are."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers).eval()


def write(path, network, *, opset=17, batch="N", side=SIZE_PX, dtype=torch.float32):
    images = torch.zeros(2 if batch == "N" else batch, 3, side, side, dtype=dtype)
    axes = {"images": {0: batch, 2: "height", 3: "width"} if side != SIZE_PX else {0: batch}}
    torch.onnx.export(
        network,
        (images,),
        path,
        dynamo=False,
        opset_version=opset,
        input_names=["images"],
        output_names=["map"],
        dynamic_axes=axes if batch == "N" else None,
    )
    return str(path)


def logits_of(model, backbone, images):
    inputs = modules.normalise(torch.from_numpy(images), torch.tensor(backbone.mean), torch.tensor(backbone.std))
    with torch.inference_mode():
        return model(inputs).numpy()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flips", [False, True])
def test_the_exported_graph_answers_as_the_extractor_and_the_last_layer_do(tmp_path, opset, channels, flips):
    network = extractor()
    (tmp_path / "own.json").write_text(json.dumps({"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}))
    backbone = backbones.load(write(tmp_path / "own.onnx", network, opset=opset))
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    model = backbone.build((SIZE_PX, SIZE_PX, channels), 5).eval()
    assert backbone.extractor.num_features == 8
    assert backbone.extractor.num_weights == 3 * 8 * 9 + 8  # batch normalisation is folded into the convolution
    images = np.random.default_rng(0).integers(0, 256, (6, SIZE_PX, SIZE_PX, channels), np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    inputs = (pixels - torch.tensor(backbone.mean).view(-1, 1, 1)) / torch.tensor(backbone.std).view(-1, 1, 1)
    last = backbones.head_of(model)[1]
    with torch.inference_mode():
        by_hand = last(network(inputs).flatten(1)).numpy()
    np.testing.assert_allclose(logits_of(model, backbone, images), by_hand, atol=1e-5)
    served = modules.FlipAveraged(model) if flips else model
    path = tmp_path / "model.onnx"
    export_onnx(served, (SIZE_PX, SIZE_PX, channels), backbone.mean, backbone.std, path)
    np.testing.assert_allclose(Classifier.load(path).logits(images), logits_of(served, backbone, images), atol=1e-5)
    graph = onnx.load(path)
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", 17)]
    assert not graph.functions
    kernels = [tensor for tensor in graph.graph.initializer if list(tensor.dims) == [8, 3, 3, 3]]
    assert len(kernels) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_description_pixels_are_normalised_as_imagenets_and_any_size_is_taken(tmp_path):
    backbone = backbones.load(write(tmp_path / "own.onnx", extractor(), side=40))
    assert backbone.mean == (0.485, 0.456, 0.406)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    assert logits_of(backbone.build((32, 32, 3), 3).eval(), backbone, images).shape == (1, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_extractor_is_refused_with_the_remedy(tmp_path):
    cases = {
        "cannot read it: No such file": tmp_path / "away.onnx",
        "is no ONNX file": tmp_path / "garbage.onnx",
        "takes exactly 1 images at a time; export it with a dynamic batch axis": tmp_path / "one.onnx",
        "its weights are in a second file": tmp_path / "split.onnx",
        "it must have one input, float32 images": tmp_path / "double.onnx",
        "own.json must hold": tmp_path / "own.onnx",
    }
    (tmp_path / "garbage.onnx").write_bytes(b"\x08no graph")
    write(tmp_path / "one.onnx", extractor(), batch=1)
    write(tmp_path / "double.onnx", extractor().double(), dtype=torch.float64)
    write(tmp_path / "own.onnx", extractor())
    onnx.save(onnx.load(tmp_path / "own.onnx"), tmp_path / "split.onnx", save_as_external_data=True, size_threshold=0)
    (tmp_path / "own.json").write_text('{"mean": [1, 2]}')
    for said, path in cases.items():
        with pytest.raises(SettingsError, match=re.escape(said)):
            backbones.load(str(path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_images_of_another_size_are_refused_with_the_setting(tmp_path):
    backbone = backbones.load(write(tmp_path / "own.onnx", extractor()))
    with pytest.raises(SettingsError, match=r"takes images of 24 x 24 px, not 32 x 32; set preprocess\.size_px=24"):
        backbone.build((32, 32, 3), 2)


def test_an_onnx_file_is_not_trained_further():
    with pytest.raises(ValueError, match=r"finetune cannot train the ONNX file own\.onnx further"):
        TrainSettings(architecture="finetune", backbone="own.onnx")
