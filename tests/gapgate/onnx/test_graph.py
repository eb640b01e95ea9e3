"""The layers that are read from an ONNX file, against the torch module that it was made of."""

import numpy as np
import onnx
import pytest
import torch

from gapgate.network import architecture, modules
from gapgate.network.export import export_onnx
from gapgate.onnx.graph import graph_layers, size_in_words
from gapgate.onnx.inner_layers_export import open_inner_layers

SHAPE = (33, 40, 3)


def exported(path, name, shape=SHAPE):
    """model.onnx of an untrained network, and the network."""
    torch.manual_seed(0)
    layers = architecture.resolve(name, shape, 5)
    chosen = architecture.torchvision_name(name)
    model = modules.build_torchvision(chosen, shape, 5, pretrained=False) if chosen else modules.build(layers, shape, 5)
    export_onnx(model, shape, [0.4] * shape[2], [0.2] * shape[2], path)
    return model


@pytest.mark.parametrize("name", [*architecture.PRESETS, "torchvision/resnet18"])
def test_the_weights_add_up_to_the_networks_with_batch_norm_folded_into_its_convolution(name, tmp_path):
    model = exported(tmp_path / "model.onnx", name)
    expected = sum(parameter.numel() for parameter in model.parameters())
    # Folded, a batch norm's scale and shift of C each become one bias of C.
    expected -= sum(m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    stages = graph_layers(onnx.load(tmp_path / "model.onnx"))
    assert sum(stage.num_weights for stage in stages) == expected
    numbered = [stage.name for stage in stages if stage.name[0].isdigit()]
    maps = open_inner_layers(onnx.load(tmp_path / "model.onnx")).feature_maps(np.zeros(SHAPE, np.uint8))
    assert numbered == [found.layer for found in maps]


def test_a_layer_says_what_it_does_how_large_it_is_and_how_its_figures_come_about(tmp_path):
    exported(tmp_path / "model.onnx", "tutorial", (28, 28, 1))
    first, pool, relu, *_, flatten, dense, _, logits = graph_layers(onnx.load(tmp_path / "model.onnx"))
    assert (first.name, first.size, first.num_weights) == ("1 convolution", "28×28×32", 3 * 3 * 1 * 32 + 32)
    assert first.weights_words == "3·3·1·32 + 32"
    assert first.size_words == ("(28 + 1 + 1 − 3) / 1 + 1 = 28",)
    assert (pool.name, pool.does, pool.size_words) == (
        "2 max pool",
        "the largest of each 2×2",
        ("(28 − 2) / 2 + 1 = 14",),
    )
    assert (relu.name, relu.shape, relu.num_weights) == ("3 ReLU", (14, 14, 32), 0)
    assert (flatten.name, flatten.size) == ("flatten", "3,136")
    assert (dense.num_weights, dense.weights_words) == (3136 * 128 + 128, "3,136·128 + 128")
    assert (logits.name, logits.size) == ("dense", "5")


def test_kernels_and_maps_that_are_not_square_have_height_width_and_channels_in_this_order(tmp_path):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, (3, 5), bias=False),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d((4, 3)),
        torch.nn.Conv2d(4, 8, 1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Conv2d(8, 5, 1),
        torch.nn.Flatten(),
    )
    export_onnx(network, (6, 10, 2), [0.4] * 2, [0.2] * 2, tmp_path / "model.onnx")
    stages = graph_layers(onnx.load(tmp_path / "model.onnx"))
    assert [(stage.name, stage.size) for stage in stages] == [
        ("1 convolution", "4×6×4"),
        ("2 ReLU", "4×6×4"),
        ("3 max pool", "1×2×4"),
        ("4 convolution", "1×2×8"),
        ("global average pool", "1×1×8"),
        ("convolution", "1×1×5"),  # no map to show, so no number
        ("flatten", "5"),
    ]
    first, _, pool, second, _, last, _ = stages
    assert first.does == "4 filters of 3×5×2, each slid over the maps"
    assert first.size_words == ("height (6 − 3) / 1 + 1 = 4", "width (10 − 5) / 1 + 1 = 6")
    assert (first.num_weights, first.weights_words) == (120, "3·5·2·4")
    assert pool.does == "the largest of each 4×3"
    assert pool.size_words == ("height (4 − 4) / 4 + 1 = 1", "width (6 − 3) / 3 + 1 = 2")
    assert second.does == "8 filters of 1×1×4, each slid over the maps"
    assert [(stage.num_weights, stage.weights_words) for stage in (second, last)] == [
        (40, "1·1·4·8 + 8"),
        (45, "1·1·8·5 + 5"),
    ]


class Mirrored(torch.nn.Module):
    """The mean of the answers for an image and its mirror image."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return (self.network(images.flip(3)) + self.network(images)) / 2


def test_a_network_that_also_looks_at_the_mirror_image_has_its_layers_once(tmp_path):
    model = exported(tmp_path / "plain.onnx", "tutorial")
    export_onnx(Mirrored(model), SHAPE, [0.4] * 3, [0.2] * 3, tmp_path / "mirrored.onnx")
    assert graph_layers(onnx.load(tmp_path / "mirrored.onnx")) == graph_layers(onnx.load(tmp_path / "plain.onnx"))
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    plain, mirrored = (open_inner_layers(onnx.load(tmp_path / f"{name}.onnx")) for name in ("plain", "mirrored"))
    for one, other in zip(plain.feature_maps(image), mirrored.feature_maps(image), strict=True):
        assert one.layer == other.layer
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-5)
    np.testing.assert_allclose(plain.embeddings(image[None]), mirrored.embeddings(image[None]), atol=1e-5)


def test_sides_of_unequal_length_are_worked_out_apart(tmp_path):
    exported(tmp_path / "model.onnx", "tutorial")
    assert graph_layers(onnx.load(tmp_path / "model.onnx"))[1].size_words == (
        "height (33 − 2) / 2 + 1 = 16.5, rounded down to 16",
        "width (40 − 2) / 2 + 1 = 20",
    )


def test_sizes_are_worked_out_in_words():
    assert size_in_words(28, 3) == "(28 − 3) / 1 + 1 = 26"
    assert size_in_words(28, 3, 1, (1, 1)) == "(28 + 1 + 1 − 3) / 1 + 1 = 28"
    assert size_in_words(27, 2, 2) == "(27 − 2) / 2 + 1 = 13.5, rounded down to 13"
