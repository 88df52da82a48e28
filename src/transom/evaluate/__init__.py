"""What a policy costs on a real text, and what it keeps: loss along the text, memory, speed."""

from transom.evaluate.losses import LossCurve, Stretch
from transom.evaluate.reading import Progress, ReadingResult, read

__all__ = ["LossCurve", "Progress", "ReadingResult", "Stretch", "read"]
