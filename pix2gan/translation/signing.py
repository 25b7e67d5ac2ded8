"""Signed statements about outputs: Content Credentials (C2PA 2, https://spec.c2pa.org).

What `provenance` says in plain text anybody can change. A C2PA manifest says the same, that a
trained algorithm made the image, and which, together with a hash of the file and a signature, so
that a change is found out. It holds random numbers, and so do the signatures of most keys: unlike
everything else, signed files differ from run to run.

No network is used: no time stamp is asked for, and no revocation list.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any

from pix2gan import __version__
from pix2gan.checkpoints.model_config import ModelConfig
from pix2gan.data.image_io import encode_image, format_of
from pix2gan.errors import ConfigError
from pix2gan.translation.provenance import DIGITAL_SOURCE_TYPE

_MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
# A preview would be a second, unmarked image in each file; what is fetched is asked for elsewhere.
_SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}


class Signer:
    """Signs images that a model has made; several threads may use one.

    Args:
        config: Of the model.
        certificate: A PEM file with the signer's certificate, followed by those that vouch for it.
        key: A PEM file with the certificate's private key: EC, Ed25519 or RSA, not encrypted.

    Raises:
        ConfigError: If c2pa-python is not installed, or nothing can be signed with these files.
    """

    def __init__(
        self,
        config: ModelConfig,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str],
    ) -> None:
        self._c2pa = _find_c2pa()
        self._manifest = _manifest(config)
        chain, private, algorithm = _read_pair(Path(certificate), Path(key))
        self._info = self._c2pa.C2paSignerInfo(algorithm, chain, private, None)
        self._context = self._c2pa.Context(settings=self._c2pa.Settings.from_dict(_SETTINGS))
        try:  # whether the certificate may sign such things shows only now
            self.sign(encode_image(_one_pixel(), "PNG"), Path("trial.png"))
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(certificate)} cannot be used: {error}") from None

    def sign(self, data: bytes, name: Path) -> bytes:
        """The same image file with a manifest; its `name` tells the format."""
        signed = io.BytesIO()
        self.sign_file(io.BytesIO(data), signed, name)
        return signed.getvalue()

    def sign_file(self, source: IO[bytes], target: IO[bytes], name: Path) -> None:
        """As `sign`, from an open file to another.

        Raises:
            ConfigError: If the format has no place for a manifest, or signing fails.
        """
        media_type = _MEDIA_TYPES.get(format_of(name))
        if media_type is None:
            raise ConfigError(
                f"{name.suffix} has no place for a signature: choose png, jpg, webp or tiff, or "
                "leave c2pa_certificate and c2pa_key out"
            )
        try:
            signer = self._c2pa.Signer.from_info(self._info)
            self._c2pa.Builder(self._manifest, context=self._context).sign(
                signer, media_type, source, target
            )
        except self._c2pa.C2paError as error:
            detail = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"it cannot be signed ({detail}): check c2pa_certificate and c2pa_key"
            ) from None


def _manifest(config: ModelConfig) -> dict[str, Any]:
    agent = {"name": config.name or str(config.architecture["name"])}
    if config.version:
        agent["version"] = config.version
    action = {
        "action": "c2pa.created",
        "digitalSourceType": DIGITAL_SOURCE_TYPE,
        "softwareAgent": agent,
    }
    return {
        "claim_generator_info": [{"name": "pix2gan", "version": __version__}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }


def _read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes, str]:
    """The chain and the key as c2pa takes them, and what the key signs with."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    chain, secret = _read(certificate), _read(key)
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise ConfigError(
            f"{certificate} holds no certificate: give the PEM file of the signer's certificate, "
            "followed by those that vouch for it"
        ) from None
    try:
        private = serialization.load_pem_private_key(secret, password=None)
    except TypeError:
        raise ConfigError(
            f"{key} is encrypted: decrypt it first, as with openssl pkcs8 -in {key}"
        ) from None
    except Exception:  # ValueError, UnsupportedAlgorithm
        raise ConfigError(f"{key} holds no private key: give a PEM file with one") from None
    encoding = serialization.Encoding.DER
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(encoding, spki) != leaf.public_key().public_bytes(
        encoding, spki
    ):
        raise ConfigError(
            f"{key} is not the key of {certificate}, in which the signer's own certificate comes "
            "first: give the two that belong together"
        )
    plain = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return chain, plain, _algorithm(private, key)


def _algorithm(private: Any, key: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        return _CURVES[private.curve.name]
    raise ConfigError(
        f"{key} is a key of a kind that C2PA does not sign with: use one of EC P-256, P-384 or "
        "P-521, Ed25519 or RSA"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path") from None


def _one_pixel() -> Any:
    import numpy as np

    return np.zeros((1, 1, 3), np.uint8)


def _find_c2pa() -> Any:
    try:
        import c2pa
        import cryptography  # noqa: F401
    except ImportError:
        raise ConfigError(
            "Signing needs c2pa-python, which is not installed: pip install 'pix2gan[c2pa]'"
        ) from None
    return c2pa
