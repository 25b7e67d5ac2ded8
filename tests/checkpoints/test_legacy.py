"""Checkpoints of the original repositories: loaded, equal in what they compute, written back."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pix2gan import Translator
from pix2gan.checkpoints import ModelConfig, load_legacy, load_model, save_legacy, save_model
from pix2gan.cli import main
from pix2gan.errors import CheckpointError
from pix2gan.models import create_generator

from .originals import (
    OriginalEnhancer,
    OriginalResNet,
    OriginalUNet,
    norm_layer,
    randomise,
)

CASES = {
    "unet128, batch": (OriginalUNet, {"num_downs": 7}, {"name": "unet128", "norm": "batch"}),
    "unet256, batch": (OriginalUNet, {"num_downs": 8, "width": 2}, {"name": "unet256"}),
    "unet256, instance": (
        OriginalUNet,
        {"num_downs": 8, "width": 2, "norm": "instance"},
        {"norm": "instance"},
    ),
    "unet, 5 levels, channels": (
        OriginalUNet,
        {"num_downs": 5, "image": 1, "output": 2},
        {"num_downs": 5, "in_channels": 1, "out_channels": 2},
    ),
    "unet, 2 levels": (OriginalUNet, {"num_downs": 2}, {"num_downs": 2}),
    "resnet9, instance": (OriginalResNet, {}, {"name": "resnet9", "norm": "instance"}),
    "resnet6, batch": (OriginalResNet, {"blocks": 6, "norm": "batch"}, {"name": "resnet6"}),
    "resnet9, dropout": (OriginalResNet, {"dropout": True}, {"dropout": True}),
    "resnet6, batch, dropout": (
        OriginalResNet,
        {"blocks": 6, "norm": "batch", "dropout": True},
        {"dropout": True, "norm": "batch"},
    ),
    "cut": (
        OriginalResNet,
        {"blur_down": True, "blur_up": True},
        {"downsampling": "blur", "upsampling": "blur"},
    ),
    "cut, filters without gain": (
        OriginalResNet,
        {"blur_down": True, "blur_up": True, "up_gain": 1.0},
        {"upsampling": "blur"},
    ),
    "cut, no antialias": (
        OriginalResNet,
        {"blur_up": True},
        {"downsampling": "strided", "upsampling": "blur"},
    ),
    "cut, no antialias up": (
        OriginalResNet,
        {"blur_down": True},
        {"downsampling": "blur", "upsampling": "transposed"},
    ),
    "cut, batch": (
        OriginalResNet,
        {"blur_down": True, "blur_up": True, "norm": "batch"},
        {"norm": "batch"},
    ),
    "pix2pixhd, global": (
        OriginalResNet,
        {"downs": 4, "image": 36, "bias": True},
        {"name": "pix2pixhd", "num_downs": 4, "in_channels": 36},
    ),
    "pix2pixhd, global, batch": (
        OriginalResNet,
        {"downs": 4, "bias": True, "norm": "batch"},
        {"name": "pix2pixhd", "norm_bias": True},
    ),
    "pix2pixhd, enhancer": (OriginalEnhancer, {}, {"name": "pix2pixhd_enhancer"}),
    "pix2pixhd, two enhancers": (
        OriginalEnhancer,
        {"enhancers": 2, "downs": 2, "width": 2},
        {"num_enhancers": 2, "num_downs": 2},
    ),
    "pix2pixhd, enhancer, batch": (OriginalEnhancer, {"norm": "batch"}, {"norm": "batch"}),
}


def original(case: str) -> nn.Module:
    build, options, _ = CASES[case]
    torch.manual_seed(0)
    return randomise(build(**options)).eval()


def test_the_originals_have_the_sizes_of_the_papers():
    with torch.device("meta"):
        unet = OriginalUNet(num_downs=8, width=64, norm="batch")
        resnet, cut = OriginalResNet(width=64), OriginalResNet(width=64, blur_down=1, blur_up=1)
    count = lambda network: sum(p.numel() for p in network.parameters())  # noqa: E731
    assert count(unet) == 54_413_955
    assert len(unet.state_dict()) == 82
    assert count(resnet) == 11_378_179
    assert "model.26.weight" in resnet.state_dict()
    assert len(cut.state_dict()) == 52
    assert cut.state_dict()["model.21.filt"].shape == (256, 1, 4, 4)


@pytest.mark.parametrize("case", CASES)
def test_equal_and_back(case, tmp_path):
    network = original(case)
    file = tmp_path / "latest_net_G.pth"
    torch.save(network.state_dict(), file)
    # a multiple of what each takes, no square, and more than a few pixels for every norm
    side = max(64, 2 ** CASES[case][1].get("num_downs", 6))
    x = torch.rand(2, next(iter(network.parameters())).shape[1], side, 2 * side) * 2 - 1

    generator, config = load_legacy(file, statistics="running")
    for option, value in CASES[case][2].items():
        assert config.architecture[option] == value
    with torch.no_grad():
        torch.testing.assert_close(generator(x), network(x), rtol=1e-5, atol=1e-5)

    again = torch.load(save_legacy(tmp_path / "back.pth", generator, config), weights_only=True)
    expected = network.state_dict()
    assert list(again) == sorted(expected, key=list(again).index)
    for key, tensor in expected.items():
        assert again[key].dtype == tensor.dtype
        assert again[key].numpy().tobytes() == tensor.numpy().tobytes(), key

    # and by way of our own format
    folder = save_model(tmp_path / "native", generator, config)
    loaded, config = load_model(folder)
    with torch.no_grad():
        assert torch.equal(loaded(x), generator(x))
    again = torch.load(save_legacy(tmp_path / "back.pth", loaded, config), weights_only=True)
    assert all(torch.equal(again[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("case", [case for case in CASES if "batch" in case])
def test_batch_norms_use_the_statistics_of_the_image_unless_told_otherwise(case, tmp_path):
    """The originals test in training mode, with one image at a time."""
    network = original(case)
    file = tmp_path / "latest_net_G.pth"
    torch.save(network.state_dict(), file)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    generator, config = load_legacy(file)
    assert config.statistics == "image"
    images = torch.rand(2, next(iter(network.parameters())).shape[1], 256, 256) * 2 - 1
    if "unet" in case:  # whose innermost plane would be one pixel: nothing to take statistics of
        images = torch.cat([images, images.flip(2)], 3).repeat(1, 1, 2, 1)
    with torch.no_grad():
        expected = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(generator(images), expected, rtol=1e-4, atol=1e-5)
    loaded, config = load_model(save_model(tmp_path / "m", generator, config))
    with torch.no_grad():
        assert torch.equal(loaded(images), generator(images))
    running, _ = load_model(tmp_path / "m", statistics="running")
    with torch.no_grad():
        assert not torch.allclose(running(images), expected, atol=1e-3)


def test_convert(tmp_path, resnet, capsys):
    for name in ("G_A", "G_B"):
        saved(tmp_path / f"latest_net_{name}.pth", resnet)
    folder, back = tmp_path / "model", tmp_path / "again" / "latest_net_G.pth"
    assert main(["convert", str(tmp_path), str(folder), "--direction", "BtoA"]) == 0
    assert "resnet9 of width 4, instance norm, 3 to 3 channels" in capsys.readouterr().out
    assert load_model(folder)[1].direction == "BtoA"
    assert main(["convert", str(tmp_path), str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    back.parent.mkdir()
    assert main(["convert", str(folder), str(back), "--to", "original"]) == 0
    written = torch.load(back, weights_only=True)
    assert all(torch.equal(written[key], value) for key, value in resnet.items())
    other = tmp_path / "other.pth"
    modern = create_generator("resnet9", width=2, upsampling="nearest")
    save_model(tmp_path / "modern", modern, ModelConfig(architecture=dict(modern.config)))
    assert main(["convert", str(tmp_path / "modern"), str(other), "--to", "original"]) == 2
    assert "no upsampling like nearest" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- traps


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture
def resnet() -> dict[str, torch.Tensor]:
    return original("resnet9, instance").state_dict()


def same(path: Path, state: dict[str, torch.Tensor], **options: str) -> bool:
    generator, config = load_legacy(path, **options)
    back = torch.load(save_legacy(path.with_name("again.pth"), generator, config))
    return all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "netG.module."])
def test_prefixes(tmp_path, resnet, prefix):
    assert same(saved(tmp_path / "g.pth", {prefix + k: v for k, v in resnet.items()}), resnet)


def test_running_statistics_of_old_instance_norms_are_dropped(tmp_path, resnet):
    old = dict(resnet)
    for key in resnet:
        if key.endswith("weight") and resnet[key].dim() == 4:
            *rest, number, _ = key.split(".")
            norm = ".".join([*rest, str(int(number) + 1)])
            if key == "model.26.weight":
                continue
            for name in ("running_mean", "running_var"):
                old[f"{norm}.{name}"] = torch.full([resnet[key].shape[0]], float("nan"))
            old[f"{norm}.num_batches_tracked"] = torch.tensor(3)
    assert len(old) > len(resnet) + 60
    assert same(saved(tmp_path / "g.pth", old), resnet)


def test_batch_norms_that_did_not_count_their_batches(tmp_path):
    state = original("unet128, batch").state_dict()
    old = collections.OrderedDict(
        (key, value) for key, value in state.items() if not key.endswith("num_batches_tracked")
    )
    assert len(old) < len(state)
    assert same(saved(tmp_path / "g.pth", old), old)


def test_the_format_before_zip_files(tmp_path, resnet):
    path = saved(tmp_path / "g.pth", resnet, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert same(path, resnet)


def test_half_precision_stays(tmp_path, resnet):
    halves = {key: value.half() for key, value in resnet.items()}
    assert same(saved(tmp_path / "g.pth", halves), halves)


@pytest.mark.parametrize("keys", [("state_dict",), ("params", "ema")])
def test_nested_dicts(tmp_path, resnet, keys):
    content: object = resnet
    for key in reversed(keys[:1]):
        content = {key: content, "epoch": 3}
    assert same(saved(tmp_path / "g.pth", content), resnet)


def test_two_generators_in_one_file(tmp_path, resnet):
    other = randomise(OriginalResNet(), seed=1).state_dict()
    judge = nn.Sequential(nn.Conv2d(3, 1, 4)).state_dict()
    both = {"genA2B": resnet, "genB2A": other, "disA": judge}
    path = saved(tmp_path / "both.pt", both)
    assert same(path, resnet)
    assert same(path, other, direction="BtoA")


def test_cyclegan_folders_resolve_by_direction(tmp_path, resnet):
    other = randomise(OriginalResNet(), seed=1).state_dict()
    saved(tmp_path / "latest_net_G_A.pth", resnet)
    saved(tmp_path / "latest_net_G_B.pth", other)
    saved(tmp_path / "5_net_G_A.pth", {})
    saved(tmp_path / "latest_net_D_A.pth", {})
    for direction, state in ((None, resnet), ("AtoB", resnet), ("BtoA", other)):
        translator = Translator.from_pretrained(tmp_path, direction=direction)
        assert translator.config.direction == (direction or "AtoB")
        assert translator.config.method == "cyclegan"
        assert torch.equal(
            translator.generator.state_dict()["stem.conv.weight"], state["model.1.weight"]
        )
    for letter, own, not_own in (("A", "AtoB", "BtoA"), ("B", "BtoA", "AtoB")):
        path = tmp_path / f"latest_net_G_{letter}.pth"
        for direction in (None, own):
            assert load_model(path, direction=direction)[1].direction == own
        with pytest.raises(CheckpointError, match=f"as the generator of {own}, not {not_own}"):
            load_model(path, direction=not_own)
    (tmp_path / "latest_net_G_B.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no generator for BtoA, only .*latest_net_G_A.pth"):
        load_model(tmp_path, direction="BtoA")


def test_the_latest_epoch_is_taken(tmp_path, resnet):
    saved(tmp_path / "95_net_G.pth", {})
    saved(tmp_path / "100_net_G.pth", resnet)
    load_model(tmp_path)
    (tmp_path / "100_net_G.pth").rename(tmp_path / "9_net_G.pth")
    with pytest.raises(CheckpointError, match=r"95_net_G\.pth"):
        load_model(tmp_path)


def test_a_translator_takes_the_file(tmp_path):
    network = original("unet128, batch")
    path = saved(tmp_path / "latest_net_G.pth", network.state_dict())
    translator = Translator.from_pretrained(str(path), statistics="running", dropout=False)
    image = torch.rand(3, 128, 256)
    with torch.no_grad():
        expected = network(image[None] * 2 - 1)[0] / 2 + 0.5
    torch.testing.assert_close(translator(image, output="tensor"), expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------ hostile


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def hostile_files(folder: Path, marker: Path, state: dict[str, torch.Tensor]) -> dict[str, Path]:
    """Files that lie, are damaged, or would run code; each must be refused with one sentence."""
    command = f"touch {marker}"
    files: dict[str, Path] = {}

    def write(name: str, content: object, **options: object) -> None:
        files[name] = folder / f"{name}.pth"
        torch.save(content, files[name], **options)

    def put(name: str, data: bytes) -> None:
        files[name] = folder / f"{name}.pth"
        files[name].write_bytes(data)

    first = "model.1.weight"
    write("code", {"model.1.weight": Evil(command)})
    write("code-at-top", Evil(command))
    write("code-beside", {**state, "x": Evil(command)})
    write("code-in-old-format", Evil(command), _use_new_zipfile_serialization=False)
    put("pickle", pickle.dumps(Evil(command)))
    put("pickle-protocol-0", pickle.dumps(Evil(command), protocol=0))
    put("eval", b"cbuiltins\neval\n(S'open(%r, \"w\")'\ntR." % str(marker))
    write("whole-network", original("resnet6, batch"))
    whole = (folder / "code-beside.pth").read_bytes()
    torch.save(state, folder / "good")
    good = (folder / "good").read_bytes()
    put("empty", b"")
    put("one-byte", b"\x80")
    put("text", b"<html>404 not found</html>")
    put("zeros", bytes(10_000))
    put("noise", bytes((i * 7919 + 13) % 251 for i in range(20_000)))
    put("onnx", b'\x08\x0e:O\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x1b\n\x01x\x12\x16')
    for part in (0.1, 0.5, 0.9, 0.999):
        put(f"cut-at-{part}", good[: int(len(good) * part)])
    put("pickle-damaged", good.replace(b"_rebuild_tensor", b"_rebuild_tensXr"))
    put("storage-damaged", good.replace(b"FloatStorage", b"FloatStoraXe"))
    put("truncated-code", whole[: len(whole) // 2])
    for name, entries in {"zip-empty": {}, "zip-of-text": {"a/b.txt": b"hello"}}.items():
        files[name] = folder / f"{name}.pth"
        with zipfile.ZipFile(files[name], "w") as archive:
            for entry, data in entries.items():
                archive.writestr(entry, data)
    files["zip-bomb"] = folder / "zip-bomb.pth"
    with zipfile.ZipFile(files["zip-bomb"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
        archive.writestr("archive/version", b"3")
    write("list", [1, 2, 3])
    write("number", 5)
    write("tensor", torch.ones(3))
    write("empty-dict", {})
    write("no-tensors", {"epoch": 5, "name": "x"})
    write("numbered-keys", dict(enumerate(state.values())))
    write("discriminator", nn.Sequential(nn.Conv2d(3, 4, 4), nn.Conv2d(4, 1, 4)).state_dict())
    write("other-network", {"features.0.weight": torch.ones(4, 3, 3, 3)})
    write("missing", {k: v for k, v in state.items() if k != "model.10.conv_block.1.weight"})
    write("missing-stem", {k: v for k, v in state.items() if k != first})
    write("unexpected", {**state, "model.99.weight": torch.ones(1)})
    write("misshapen", {**state, "model.4.weight": torch.ones(8, 4, 5, 5)})
    write("vector", {**state, first: torch.ones(4)})
    write("no-elements", {**state, first: torch.ones(0, 3, 7, 7)})
    write("not-finite", {**state, first: torch.full_like(state[first], float("nan"))})
    write("views", {**state, first: torch.ones(1).expand(2**20, 2**20, 7, 7)})
    write("sparse", {**state, first: state[first].to_sparse()})
    write("blocks-missing", {k: v for k, v in state.items() if not k.startswith("model.12.")})
    filters = original("cut").state_dict()
    write("other-filter", {**filters, "model.7.filt": torch.ones(8, 1, 3, 3)})
    write("no-filter", {k: v for k, v in filters.items() if k != "model.21.filt"})
    files["is-missing"] = folder / "is-missing.pth"
    (folder / "folder.pth").mkdir()
    files["folder"] = folder / "folder.pth"
    return files


def test_hostile_and_damaged_files_are_refused(tmp_path, resnet, recwarn):
    marker = tmp_path / "executed"
    files = hostile_files(tmp_path, marker, resnet)
    assert len(files) >= 40
    before = sorted(tmp_path.iterdir())
    for name, path in files.items():
        with pytest.raises(CheckpointError) as caught:
            load_legacy(path)
        message = str(caught.value)
        assert path.name in message, name
        if name.startswith(("cut-at-", "onnx")):
            assert "is damaged or not a PyTorch checkpoint" in message, name
        assert "\n" not in message, name
        assert len(message) < 700, name
    assert not marker.exists()
    assert sorted(tmp_path.iterdir()) == before
    assert [str(w.message) for w in recwarn] == []


def test_errors_name_the_tensors(tmp_path, resnet):
    path = saved(tmp_path / "a.pth", {**resnet, "model.99.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"unexpected model\.99\.weight"):
        load_legacy(path)
    path = saved(tmp_path / "b.pth", {**resnet, "model.4.weight": torch.ones(8, 4, 5, 5)})
    with pytest.raises(CheckpointError, match=r"model\.4\.weight is \[8, 4, 5, 5\] instead of"):
        load_legacy(path)
    judge = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), norm_layer("batch", 4), nn.Conv2d(4, 1, 4))
    path = saved(tmp_path / "d.pth", {f"model.{k}": v for k, v in judge.state_dict().items()})
    with pytest.raises(CheckpointError, match="this is a discriminator"):
        load_legacy(path)
