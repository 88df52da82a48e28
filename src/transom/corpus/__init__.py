"""Token ids on disk: one writer, many readers, checksums, windows; numpy only."""

from transom.corpus.build import append_files, build
from transom.corpus.corpus import TokenCorpus
from transom.corpus.manifest import Manifest
from transom.corpus.reading import Done, Watch
from transom.corpus.verify import Damage, verify
from transom.corpus.writer import CorpusWriter

__all__ = [
    "CorpusWriter",
    "Damage",
    "Done",
    "Manifest",
    "TokenCorpus",
    "Watch",
    "append_files",
    "build",
    "verify",
]
