"""FID, KID and LPIPS: against closed forms, from ONNX files, in reports."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from onnx import TensorProto, helper, numpy_helper

from pix2gan.checkpoints import ModelConfig, save_model
from pix2gan.cli import main
from pix2gan.data.image_io import save_image
from pix2gan.errors import CheckpointError, ConfigError, DataError
from pix2gan.evaluation.features import open_features
from pix2gan.evaluation.report import evaluate_folders
from pix2gan.evaluation.set_distances import (
    frechet_distance,
    kernel_distance,
    perceptual_distance,
)
from pix2gan.models import create_generator


def save(path, nodes, outputs, size=("h", "w"), initializer=()):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, *size])
    graph = helper.make_graph(nodes, "features", [image], outputs, initializer=initializer)
    imports = [helper.make_opsetid("", 20)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    )
    return path


def colour_features(path, size=("h", "w")):
    """[N, 3]: the mean colour."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    return save(
        path, nodes, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])], size
    )


def two_maps(path):
    """Two layers: the image, and a half of the image at half the size."""
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Mul", ["small", "half"], ["b"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, f"h{name}", f"w{name}"])
        for name in "ab"
    ]
    return save(path, nodes, outputs, initializer=[half])


def test_frechet_distance_is_its_formula():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
    b = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * root)
    found = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_the_unbiased_estimate():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(12, 4)), rng.normal(size=(12, 4)) + 0.7

    def kernel(x, y):
        return (x @ y.T / 4 + 1) ** 3

    n = 12
    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (n * (n - 1)) for x in (a, b))
    expected = within - 2 * kernel(a, b).mean()
    mean, deviation = kernel_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert mean == pytest.approx(expected, rel=1e-6)
    assert deviation == 0
    more = torch.from_numpy(rng.normal(size=(30, 4)))
    state = torch.get_rng_state()
    first = kernel_distance(torch.from_numpy(a), more, seed=3)
    assert first == kernel_distance(torch.from_numpy(a), more, seed=3)
    assert first != kernel_distance(torch.from_numpy(a), more, seed=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_perceptual_distance_sums_layers():
    a, b = torch.rand(2, 3, 8, 6), torch.rand(2, 3, 8, 6)
    c, d = torch.rand(2, 7, 4, 3), torch.rand(2, 7, 4, 3)
    expected = [
        sum(((x[n] - y[n]) ** 2).sum(0).mean() for x, y in ((a, b), (c, d))) for n in range(2)
    ]
    torch.testing.assert_close(perceptual_distance([a, c], [b, d]), torch.stack(expected))


def test_a_network_brings_images_to_its_size(tmp_path):
    network = open_features(colour_features(tmp_path / "f.onnx", size=(16, 16)))
    assert network.protocol()["size"] == [16, 16]
    images = torch.rand(2, 3, 32, 48)
    (found,) = network(images)
    torch.testing.assert_close(found, images.mean((2, 3)), atol=1e-2, rtol=0)


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(5)
    pixels = {}
    for folder in ("out", "real"):
        (tmp_path / folder).mkdir()
        for i in range(5):
            pixels[folder, i] = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
            save_image(tmp_path / folder / f"{i}.png", pixels[folder, i])
    values = {
        folder: torch.stack(
            [torch.from_numpy(pixels[folder, i]).permute(2, 0, 1) / 255 for i in range(5)]
        )
        for folder in ("out", "real")
    }
    return tmp_path / "out", tmp_path / "real", values["out"], values["real"]


def test_a_report_of_everything(folders, tmp_path):
    outputs, references, ours, theirs = folders
    model = save_model(
        tmp_path / "model",
        generator := create_generator("unet128", width=2, num_downs=2),
        ModelConfig(architecture=dict(generator.config)),
    )
    colours, maps = colour_features(tmp_path / "colours.onnx"), two_maps(tmp_path / "maps.onnx")
    report, page = tmp_path / "r.json", tmp_path / "made" / "page.html"
    arguments = ["evaluate", str(outputs), "--against", str(references), "--split", "test"]
    arguments += ["--features", str(colours), "--lpips", str(maps), "--model", str(model)]
    assert main([*arguments, "--report", str(report), "--page", str(page)]) == 0
    found = json.loads(report.read_text())
    assert found["counts"] == {"outputs": 5, "references": 5}
    assert found["split"] == "test"
    assert re.fullmatch("[0-9a-f]{64}", found["model"]["sha256"])
    assert found["fid"] == pytest.approx(
        frechet_distance(ours.mean((2, 3)), theirs.mean((2, 3))), rel=1e-3
    )
    pool = torch.nn.functional.avg_pool2d
    expected = perceptual_distance([ours, pool(ours, 2) / 2], [theirs, pool(theirs, 2) / 2])
    torch.testing.assert_close(
        torch.tensor([image["lpips"] for image in found["images"]]), expected, rtol=1e-4, atol=0
    )
    assert found["lpips"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert found["protocol"]["fid"]["file"] == "colours.onnx"
    assert found["protocol"]["kid"]["subset_size"] == 1000
    text = page.read_text()
    assert text.count('src="data:image/jpeg;base64,') == 15, "five pairs and their difference"
    assert "http" not in text, "all of it is inside"
    assert "<script" not in text
    assert text.index("Worst") < text.index("Usual") < text.index("Best")


def test_sets_without_pairs(folders, tmp_path):
    outputs, references, ours, theirs = folders
    (outputs / "4.png").rename(outputs / "another name.png")
    (references / "0.png").unlink()
    colours = colour_features(tmp_path / "colours.onnx")
    result = evaluate_folders(outputs, references, unpaired=True, features=colours)
    values = result.as_dict()
    assert values["counts"] == {"outputs": 5, "references": 4}
    assert "psnr" not in values
    assert values["swd"]["mean"] > 0
    assert values["fid"] == pytest.approx(
        frechet_distance(ours.mean((2, 3)), theirs[1:].mean((2, 3))), rel=1e-3
    )
    assert "5 images against 4, unpaired" in result.summary()
    assert "FID" in result.summary()
    for option in ("page", "lpips"):
        with pytest.raises(ConfigError, match="compare pairs"):
            evaluate_folders(outputs, references, unpaired=True, **{option: tmp_path / "x"})
    save_image(references / "small.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"small\.png is 8 x 8 pixels"):
        evaluate_folders(outputs, references, unpaired=True)


def test_networks_that_do_not_fit_are_refused(folders, tmp_path):
    outputs, references, *_ = folders
    colours, maps = colour_features(tmp_path / "colours.onnx"), two_maps(tmp_path / "maps.onnx")
    with pytest.raises(CheckpointError, match="must make one vector"):
        evaluate_folders(outputs, references, features=maps)
    with pytest.raises(CheckpointError, match="must make feature maps"):
        evaluate_folders(outputs, references, lpips=colours)
    node = helper.make_node("Tanh", ["x"], ["y"], domain="evil")
    vector = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    with pytest.raises(CheckpointError, match="no operator of the ONNX standard"):
        evaluate_folders(
            outputs, references, features=save(tmp_path / "evil.onnx", [node], [vector])
        )
    (tmp_path / "one").mkdir()
    save_image(tmp_path / "one" / "0.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(DataError, match="need two images"):
        evaluate_folders(tmp_path / "one", tmp_path / "one", features=colours)
