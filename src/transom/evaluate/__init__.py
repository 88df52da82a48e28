"""What a policy costs and keeps on a real text: loss along it, memory, speed."""

from transom.evaluate.losses import LossCurve, Stretch
from transom.evaluate.reading import Progress, ReadingResult, read

__all__ = ["LossCurve", "Progress", "ReadingResult", "Stretch", "read"]
