"""What a thing is: the recipe of a set, the fingerprint of a value, the code of a function, the state of a file.

Equal things have equal identities in every process and on every machine, and only they have. Nothing here runs a network, reads
a store, or names a thing by its address, by a pickle or by chance: what cannot be identified is refused."""

from __future__ import annotations

from .content import (
    content_id,
    digest_json,
    encoded_id,
    file_id,
    is_image,
    is_special,
    is_tensor,
    load_image,
    tensor_digest,
)
from .fileset import is_weights_file, package_folder, states, versions
from .recipe import Difference, Recipe
from .values import digest, identity

__all__ = [
    "Difference",
    "Recipe",
    "content_id",
    "digest",
    "digest_json",
    "encoded_id",
    "file_id",
    "identity",
    "is_image",
    "is_special",
    "is_tensor",
    "is_weights_file",
    "load_image",
    "package_folder",
    "states",
    "tensor_digest",
    "versions",
]
