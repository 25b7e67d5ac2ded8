"""Signed outputs, read back by the C2PA library itself."""

from __future__ import annotations

import datetime
import io
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pix2gan import cli
from pix2gan.checkpoints import save_model
from pix2gan.data.image_io import open_image, open_image_with_info, save_image
from pix2gan.errors import ConfigError
from pix2gan.translation import Translator, folder_run, translate_paths
from pix2gan.translation.provenance import DIGITAL_SOURCE_TYPE
from pix2gan.translation.signing import Signer

from .image_trees import translate, tree, write

c2pa = pytest.importorskip("c2pa", reason="the extra [c2pa] is not installed")
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "tif": "image/tiff"}
PEM = serialization.Encoding.PEM


def write_pair(
    folder: Path, private: Any, *, may_sign: bool = True, password: bytes | None = None
) -> dict[str, Path]:
    """A certificate, of an authority made for it, and its key, as the options that name them."""
    folder.mkdir(exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    leaf = certificate("A signer", private, authority, for_signing=may_sign)
    root = certificate("An authority", authority, authority, for_signing=False)
    encryption: Any = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    (folder / "chain.pem").write_bytes(leaf.public_bytes(PEM) + root.public_bytes(PEM))
    (folder / "key.pem").write_bytes(
        private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return {"c2pa_certificate": folder / "chain.pem", "c2pa_key": folder / "key.pem"}


def certificate(name: str, private: Any, authority: Any, *, for_signing: bool) -> x509.Certificate:
    def named(common: str) -> x509.Name:
        names = {NameOID.COMMON_NAME: common, NameOID.ORGANIZATION_NAME: "Tests"}
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in names.items()])

    is_authority = private is authority
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
    usage |= {
        "digital_signature": not is_authority,
        "key_cert_sign": is_authority,
        "crl_sign": is_authority,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("An authority"))
        .public_key(private.public_key())
        .serial_number(1 + is_authority)
        .not_valid_before(datetime.datetime(2024, 1, 1))
        .not_valid_after(datetime.datetime(2124, 1, 1))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False
        )
    )
    if for_signing:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
    return builder.sign(authority, hashes.SHA256())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"), ec.generate_private_key(ec.SECP256R1()))


def said_by(data: bytes, suffix: str) -> dict[str, Any]:
    with c2pa.Reader(MEDIA_TYPES[suffix.replace("tiff", "tif")], io.BytesIO(data)) as reader:
        return json.loads(reader.json())


def check_signed(data: bytes, suffix: str) -> None:
    said = said_by(data, suffix)
    assert said["validation_state"] == "Valid"
    (status,) = said["validation_status"]  # nobody trusts the tests
    assert status["code"] == "signingCredential.untrusted"
    (manifest,) = said["manifests"].values()
    assert manifest["signature_info"]["common_name"] == "A signer"
    assert "time" not in manifest["signature_info"], "nobody was asked for a time stamp"
    assert manifest["claim_generator_info"][0]["name"] == "pix2gan"
    (assertion,) = manifest["assertions"]
    (action,) = assertion["data"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert action["softwareAgent"] == {"name": "unet128", "version": "1"}
    assert "thumbnail" not in manifest


def fill(folder: Path) -> list[str]:
    for i in range(3):
        for suffix in MEDIA_TYPES:
            write(folder / suffix / f"{i}.{suffix}", 16, 24, seed=i)
    deep = np.random.default_rng(0).integers(0, 65536, (16, 24, 3), np.uint16)
    save_image(folder / "deep.png", deep)
    save_image(folder / "deep.tif", deep)
    return ["deep.png", "deep.tif", *(f"{s}/{i}.{s}" for s in MEDIA_TYPES for i in range(3))]


def test_every_output_of_a_folder(unet: Translator, tmp_path: Path, pair: dict[str, Path]) -> None:
    names = fill(tmp_path / "in")
    for options, suffix in (({}, None), ({"format": "tiff"}, "tif")):
        signed, plain = tmp_path / f"signed {suffix}", tmp_path / f"plain {suffix}"
        assert translate(unet, tmp_path / "in", signed, jobs=3, **pair, **options).done == 14
        translate(unet, tmp_path / "in", plain, **options)
        written = tree(signed)
        assert len(written) == len(names)
        for name, data in written.items():
            check_signed(data, name.rpartition(".")[2])
            np.testing.assert_array_equal(open_image(signed / name), open_image(plain / name))
            assert DIGITAL_SOURCE_TYPE.encode() in data
    again = translate(unet, tmp_path / "in", tmp_path / "signed None", **pair)
    assert (again.done, again.skipped) == (0, 14)
    assert tree(tmp_path / "signed None").keys() == tree(tmp_path / "plain None").keys()


def test_a_change_is_found_out(unet: Translator, tmp_path: Path, pair: dict[str, Path]) -> None:
    write(tmp_path / "a.png", 16, 16)
    translate_paths(unet, tmp_path / "a.png", tmp_path / "b.png", progress=False, **pair)
    data = bytearray((tmp_path / "b.png").read_bytes())
    check_signed(bytes(data), "png")
    place = data.index(b"IDAT") + 40
    data[place] ^= 1
    said = said_by(bytes(data), "png")
    assert said["validation_state"] == "Invalid"
    assert "assertion.dataHash.mismatch" in {s["code"] for s in said["validation_status"]}


@pytest.mark.parametrize("suffix", MEDIA_TYPES)
def test_streams(unet: Translator, tmp_path: Path, pair: dict[str, Path], suffix: str) -> None:
    source = write(tmp_path / f"a.{suffix}")
    out = io.BytesIO()
    translate_paths(unet, source, out, format="tiff" if suffix == "tif" else suffix, **pair)
    check_signed(out.getvalue(), suffix)


@pytest.mark.parametrize("suffix", MEDIA_TYPES)
def test_images_that_are_written_in_parts(
    unet: Translator,
    tmp_path: Path,
    pair: dict[str, Path],
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pyvips", exc_type=ImportError)
    monkeypatch.setattr(
        folder_run, "open_image_with_info", partial(open_image_with_info, max_pixels=100)
    )
    write(tmp_path / "in" / f"a.{suffix}", 130, 141)
    settings: dict[str, Any] = {"tile": 64, "tile_statistics": "fast"}
    if suffix == "tif":
        settings["format"] = "tiff"
    for out, options in (("signed", pair), ("plain", {})):
        report = translate(unet, tmp_path / "in", tmp_path / out, **settings, **options)
        assert report.failed == []
    assert set(tree(tmp_path / "signed")) == {f"a.{suffix}"}
    check_signed((tmp_path / "signed" / f"a.{suffix}").read_bytes(), suffix)
    np.testing.assert_array_equal(
        open_image(tmp_path / "signed" / f"a.{suffix}"),
        open_image(tmp_path / "plain" / f"a.{suffix}"),
    )


@pytest.mark.parametrize("kind", ["P-384", "P-521", "Ed25519", "RSA"])
def test_kinds_of_keys(unet: Translator, tmp_path: Path, kind: str) -> None:
    make = {
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
    }
    options = write_pair(tmp_path / "pair", make[kind]())
    signer = Signer(unet.config, options["c2pa_certificate"], options["c2pa_key"])
    data = write(tmp_path / "a.jpg").read_bytes()
    check_signed(signer.sign(data, Path("a.jpg")), "jpg")


def bad_pairs(folder: Path, pair: dict[str, Path]) -> dict[str, tuple[dict[str, Path], str]]:
    p256 = partial(ec.generate_private_key, ec.SECP256R1())
    certificate_alone = {"c2pa_certificate": pair["c2pa_certificate"]}
    (folder / "text.pem").write_text("not PEM at all")
    other = write_pair(folder / "other", p256())
    return {
        "one of them": (certificate_alone, "needs both"),
        "missing": ({**pair, "c2pa_key": folder / "none.pem"}, "none.pem cannot be read"),
        "a folder": ({**pair, "c2pa_certificate": folder}, "cannot be read"),
        "no certificate": ({**pair, "c2pa_certificate": folder / "text.pem"}, "no certificate"),
        "no key": ({**pair, "c2pa_key": folder / "text.pem"}, "holds no private key"),
        "of another": ({**pair, "c2pa_key": other["c2pa_key"]}, "is not the key of"),
        "encrypted": (write_pair(folder / "locked", p256(), password=b"x"), "is encrypted"),
        "curve": (
            write_pair(folder / "curve", ec.generate_private_key(ec.SECP256K1())),
            "does not sign with",
        ),
        "not for signing": (
            write_pair(folder / "not", p256(), may_sign=False),
            r"chain\.pem cannot be used: it cannot be signed",
        ),
    }


def test_what_cannot_sign_is_one_sentence_and_leaves_nothing(
    unet: Translator, tmp_path: Path, pair: dict[str, Path]
) -> None:
    source = write(tmp_path / "in" / "a.png").parent
    for case, (options, reason) in bad_pairs(tmp_path, pair).items():
        with pytest.raises(ConfigError, match=reason) as failure:
            translate(unet, source, tmp_path / "out", **options)
        assert "\n" not in str(failure.value), case
        assert not (tmp_path / "out").exists(), case


def test_what_cannot_be_signed(unet: Translator, tmp_path: Path, pair: dict[str, Path]) -> None:
    source = write(tmp_path / "in" / "a.png").parent
    with pytest.raises(ConfigError, match="npy has no place for a signature"):
        translate(unet, source, tmp_path / "out", format="npy", **pair)
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match="Only images are signed"):
        translate_paths(unet, tmp_path / "clip.mp4", tmp_path / "out.mp4", **pair)
    with pytest.raises(ConfigError, match=r"\.npy has no place for a signature"):
        Signer(unet.config, *pair.values()).sign(b"", Path("a.npy"))
    signer = Signer(unet.config, *pair.values())
    with pytest.raises(ConfigError, match="it cannot be signed"):
        signer.sign(b"no image", Path("a.png"))


def test_the_library_that_is_not_installed(
    unet: Translator, tmp_path: Path, pair: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in" / "a.png").parent
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'pix2gan\[c2pa\]'"):
        translate(unet, source, tmp_path / "out", **pair)


def test_the_command(
    unet: Translator, tmp_path: Path, pair: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model", unet.generator, unet.config)
    source, out = write(tmp_path / "a.jpg"), tmp_path / "b.jpg"
    command = ["translate", str(source), "-m", str(model), "-o", str(out), "--device", "cpu"]
    files = ["--c2pa-certificate", str(pair["c2pa_certificate"])]
    assert cli.main([*command, *files]) == 2
    assert "needs both" in capsys.readouterr().err
    assert cli.main([*command, *files, "--c2pa-key", str(pair["c2pa_key"])]) == 0
    check_signed(out.read_bytes(), "jpg")
