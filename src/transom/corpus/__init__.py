"""Token ids on disk: written by one, read by many, checked, cut into windows; numpy only."""

from transom.corpus.corpus import TokenCorpus
from transom.corpus.manifest import Manifest
from transom.corpus.verify import Damage, verify
from transom.corpus.writer import CorpusWriter

__all__ = ["CorpusWriter", "Damage", "Manifest", "TokenCorpus", "verify"]
