"""The content-addressed model cache: one read-only folder for each model, named for its digest.

    models/trees/<digest>/        0555, with the model's files (0444, one name each)
    models/trees/<digest>.json    its manifest: names, sizes and digests; its mtime tells when it was last looked for
    models/trees/.<key>/          finished files of a model that is being fetched
    models/parts/<key>/           files that are being fetched
    models/keys/<key>             the digest that a fetch led to
    models/locks/                 one file for each key and digest that somebody writes; flock, so the dead hold none
    models/quarantine/            what was found damaged

A key stands for what is fetched: the digest when the source vouches for every file, else a hash of what it is called.
A model appears by one rename, when all its files are complete, verified and on the disk; its manifest lies there
before. So whoever finds a model finds a whole one, whatever was killed and whenever.
"""

from adapters.model_cache.cache import ModelCache
from adapters.model_cache.download import Patience

__all__ = ["ModelCache", "Patience"]
