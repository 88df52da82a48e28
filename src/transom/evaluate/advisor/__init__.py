"""Which policy to use, and how large: arithmetic, a short evaluation, a recommendation."""

from transom.evaluate.advisor.advice import Advice, Option, advise
from transom.evaluate.advisor.candidates import Candidate, Wish, candidates

__all__ = ["Advice", "Candidate", "Option", "Wish", "advise", "candidates"]
