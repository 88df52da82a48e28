"""What a policy costs and keeps on a real text: loss along it, memory, speed."""

from transom.evaluate.losses import LossCurve, Stretch
from transom.evaluate.reading import Progress, Run, read

__all__ = ["LossCurve", "Progress", "Run", "Stretch", "read"]
