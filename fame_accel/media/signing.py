"""Content credentials (C2PA): what `provenance` says, signed with a certificate of the user's own."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from fame_accel._version import __version__
from fame_accel.media.outputs import AnyPath
from fame_accel.media.packages import require
from fame_accel.media.provenance import SOURCE_TYPE

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="  # a PNG to try on
)
_MEDIA = {".mp4": "video/mp4", ".png": "image/png"}


@dataclass(frozen=True, eq=False)
class Certificate:
    """A certificate chain and the private key of its first certificate, read and found to fit."""

    signer: Any

    @classmethod
    def read(cls, chain: AnyPath, key: AnyPath) -> Certificate:
        """Read both from PEM files; the signer's certificate comes first, that of the authority last.

        Raises:
            ValueError: a file cannot be read, the key has a password or a kind that C2PA does not take, or the
                certificate may not sign content.
            ImportError: c2pa-python is missing.
        """
        c2pa = require("c2pa", "c2pa")
        pems = [_read("--sign-cert", chain), _read("--sign-key", key)]
        algorithm = _algorithm(key, pems[1])
        trial = BytesIO()
        try:
            certificate = cls(c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm.encode(), *pems, None)))
            certificate._sign("image/png", BytesIO(base64.b64decode(_PIXEL)), trial)
            state = c2pa.Reader("image/png", trial).get_validation_state()
        except Exception as error:  # c2pa has an error class for each kind of fault
            raise ValueError(f"--sign-cert {chain} and --sign-key {key} cannot sign: {error}") from error
        if state == "Invalid":
            raise ValueError(f"--sign-cert {chain} and --sign-key {key} make signatures that are not valid")
        return certificate

    def sign(self, file: Path) -> None:
        """Put a signed manifest into a complete .mp4 or .png file."""
        unsigned = file.with_name(f"{file.stem}_unsigned{file.suffix}")
        file.replace(unsigned)
        try:
            with unsigned.open("rb") as source, file.open("xb+") as target:
                self._sign(_MEDIA[file.suffix.lower()], source, target)
        finally:
            unsigned.unlink()

    def _sign(self, media_type: str, source: BinaryIO, target: BinaryIO) -> None:
        created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
        manifest = {
            "claim_generator_info": [{"name": "fame-accel", "version": __version__}],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": [created]}}],
        }
        require("c2pa", "c2pa").Builder(json.dumps(manifest)).sign(self.signer, media_type, source, target)


def _read(flag: str, file: AnyPath) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"{flag} {file} cannot be read: {error.strerror}") from error


def _algorithm(file: AnyPath, pem: bytes) -> str:
    """C2PA's name of the algorithm that a key signs with."""
    serialization = require("cryptography.hazmat.primitives.serialization", "c2pa")
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--sign-key {file} must be a private key in PEM without a password: {error}") from error
    kind = type(key).__name__
    if "Ed25519" in kind:
        return "ed25519"
    if "RSA" in kind:
        return "ps256"
    if (curve := getattr(getattr(key, "curve", None), "name", None)) in _CURVES:
        return _CURVES[curve]
    raise ValueError(
        f"--sign-key {file} must be Ed25519, RSA or of the curves {', '.join(_CURVES)}, got {curve or kind}"
    )
