"""Identities and digests: equal things have equal ones, in every process, on every machine, and only they have.

Never by memory address, pickle or chance: what cannot be identified deterministically is refused with the way to
give it an identity.
"""

from __future__ import annotations

from typing import Any

from .content import content_id, digest_json, encoded_id, file_id, tensor_digest
from .values import identity

__all__ = ["content_id", "digest", "digest_json", "encoded_id", "file_id", "identity", "tensor_digest"]


def digest(value: Any) -> str:
    """Return the SHA-256 digest of a value's identity, 64 hexadecimal characters."""
    return digest_json(identity(value))
