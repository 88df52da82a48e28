"""Plain and slow eviction policies, as references: lists that are searched from end to end."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable

from transom.memory.eviction.reuse_odds import BINS, CLASSES, FITS, KEPT, PRIOR, SPAN

Key = Hashable


class Plain:
    """Keys with sizes and pins."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.sizes: dict[Key, int] = {}
        self.pins: Counter[Key] = Counter()

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def free(self, keys) -> list[Key]:
        return [key for key in keys if not self.pins[key]]

    def total(self, keys) -> int:
        return sum(self.sizes[key] for key in keys)

    def add(self, key: Key, size: int, cost: float) -> None:
        self.sizes[key] = size
        self.added(key, cost)

    def remove(self, key: Key, evicted: bool) -> None:
        self.removed(key, evicted)
        del self.sizes[key], self.pins[key]


class PlainLRU(Plain):
    def __init__(self, capacity):
        super().__init__(capacity)
        self.log = []  # in the order of use, oldest first

    def added(self, key, cost):
        self.log.append(key)

    def touch(self, key):
        self.log.append(key)

    def victim(self, newcomer):
        last = {key: at for at, key in enumerate(self.log)}
        return min(self.free(self.sizes), key=last.__getitem__, default=None)

    def removed(self, key, evicted):
        pass


class PlainValued(Plain):
    """H(key) = L + F(key) * C(key) / S(key), where L is the H of the last victim."""

    by_cost = False

    def __init__(self, capacity):
        super().__init__(capacity)
        self.floor, self.clock = 0.0, 0
        self.value, self.uses, self.costs = {}, {}, {}

    def added(self, key, cost):
        self.uses[key], self.costs[key] = 0, cost
        self.touch(key)

    def touch(self, key):
        self.clock += 1
        self.uses[key] += 1
        worth = self.costs[key] / self.sizes[key] if self.by_cost else 1.0
        self.value[key] = (self.floor + self.uses[key] * worth, self.clock)

    def victim(self, newcomer):
        return min(self.free(self.sizes), key=self.value.__getitem__, default=None)

    def removed(self, key, evicted):
        if evicted:
            self.floor = max(self.floor, self.value[key][0])


class PlainGreedyDual(PlainValued):
    by_cost = True


class PlainSieve(Plain):
    """Algorithm 1 of the paper: the tail is the oldest key, `hand` a key or None for the tail."""

    def __init__(self, capacity):
        super().__init__(capacity)
        self.queue = []  # tail first
        self.visited = set()
        self.hand = None

    def added(self, key, cost):
        self.queue.append(key)

    def touch(self, key):
        self.visited.add(key)

    def towards_head(self, key):
        at = self.queue.index(key) + 1
        return self.queue[at] if at < len(self.queue) else None

    def victim(self, newcomer):
        if not self.free(self.queue):
            return None
        key = self.hand if self.hand is not None else self.queue[0]
        while self.pins[key] or key in self.visited:
            if not self.pins[key]:
                self.visited.discard(key)
            key = self.towards_head(key)
            key = key if key is not None else self.queue[0]
        self.hand = key
        return key

    def removed(self, key, evicted):
        if key == self.hand:
            self.hand = self.towards_head(key)
        self.queue.remove(key)
        self.visited.discard(key)


class PlainS3FIFO(Plain):
    """Algorithm 1 of the paper, with queues of bytes."""

    def __init__(self, capacity):
        super().__init__(capacity)
        self.small, self.main, self.ghost = [], [], []  # tail first; ghosts with their sizes
        self.freq = {}

    def added(self, key, cost):
        ghosts = [one for one, _ in self.ghost]
        if key in ghosts:
            self.main.append(key)
            del self.ghost[ghosts.index(key)]
        else:
            self.small.append(key)
        self.freq[key] = 0

    def touch(self, key):
        self.freq[key] = min(self.freq[key] + 1, 3)

    def victim(self, newcomer):
        ways = [self.evict_small, self.evict_main]
        if self.total(self.small) < 0.1 * self.capacity:
            ways.reverse()
        first = ways[0]()
        return first if first is not None else ways[1]()

    def evict_small(self):
        for key in self.free(self.small):
            if self.freq[key] <= 1:
                return key
            self.small.remove(key)
            self.main.append(key)
            self.freq[key] = 0
        return None

    def evict_main(self):
        while free := self.free(self.main):
            key = free[0]
            if not self.freq[key]:
                return key
            self.freq[key] -= 1
            self.main.remove(key)
            self.main.append(key)
        return None

    def removed(self, key, evicted):
        if key in self.main:
            self.main.remove(key)
            return
        self.small.remove(key)
        if evicted:
            self.ghost.append((key, self.sizes[key]))
            while sum(size for _, size in self.ghost) > self.capacity - 0.1 * self.capacity:
                self.ghost.pop(0)


class PlainARC(Plain):
    """Figure 4 of the paper, with bytes for pages; each list from least to most recently used."""

    def __init__(self, capacity):
        super().__init__(capacity)
        self.t1, self.t2 = [], []
        self.b1, self.b2 = {}, {}  # with their sizes
        self.p = 0.0
        self.adapted = None

    def adapt(self, key, size):
        if self.adapted == key:
            return
        self.adapted = key
        b1, b2 = sum(self.b1.values()), sum(self.b2.values())
        if key in self.b1:
            self.p = min(self.capacity, self.p + size * max(1.0, b2 / max(1, b1)))
        elif key in self.b2:
            self.p = max(0.0, self.p - size * max(1.0, b1 / max(1, b2)))

    def added(self, key, cost):
        self.adapt(key, self.sizes[key])
        self.adapted = None
        seen = key in self.b1 or key in self.b2
        self.b1.pop(key, None)
        self.b2.pop(key, None)
        (self.t2 if seen else self.t1).append(key)
        self.trim()

    def touch(self, key):
        (self.t1 if key in self.t1 else self.t2).remove(key)
        self.t2.append(key)

    def victim(self, newcomer):
        self.adapt(newcomer.key, newcomer.size)
        t1 = self.total(self.t1)
        from_t1 = t1 > self.p or (newcomer.key in self.b2 and t1 == self.p)
        lists = [self.t1, self.t2] if from_t1 else [self.t2, self.t1]
        return next(iter(self.free(lists[0]) + self.free(lists[1])), None)

    def removed(self, key, evicted):
        (source, ghosts) = (self.t1, self.b1) if key in self.t1 else (self.t2, self.b2)
        source.remove(key)
        if evicted:
            ghosts[key] = self.sizes[key]
            size = self.sizes.pop(key)
            self.trim()
            self.sizes[key] = size

    def trim(self):
        while self.b1 and self.total(self.t1) + sum(self.b1.values()) > self.capacity:
            del self.b1[next(iter(self.b1))]
        held = self.total(self.t1) + self.total(self.t2)
        while self.b2 and held + sum([*self.b1.values(), *self.b2.values()]) > 2 * self.capacity:
            del self.b2[next(iter(self.b2))]


class Counts:
    """What the sketch of W-TinyLFU estimates, exactly."""

    def __init__(self):
        self.counts = Counter()
        self.counted = 0
        self.columns = 64

    def count(self, key):
        self.counts[key] = min(15, self.counts[key] + 1)
        self.counted += 1
        if self.counted >= 10 * self.columns:
            self.counts = Counter({one: seen // 2 for one, seen in self.counts.items()})
            self.counted //= 2

    def estimate(self, key):
        return self.counts[key]

    def widen(self, keys):
        while self.columns < keys:
            self.columns *= 2


class PlainWTinyLFU(Plain):
    """Exact counts instead of a sketch; each list from least to most recently used."""

    def __init__(self, capacity):
        super().__init__(capacity)
        self.window, self.probation, self.protected = [], [], []
        self.seen = Counts()

    def added(self, key, cost):
        self.seen.widen(len(self.sizes))
        self.seen.count(key)
        self.window.append(key)
        while self.total(self.window) > 0.01 * self.capacity:
            self.probation.append(self.window.pop(0))

    def touch(self, key):
        self.seen.count(key)
        if key in self.probation:
            self.probation.remove(key)
            self.protected.append(key)
            while self.total(self.protected) > 0.8 * (1 - 0.01) * self.capacity:
                self.probation.append(self.protected.pop(0))
        else:
            segment = self.window if key in self.window else self.protected
            segment.remove(key)
            segment.append(key)

    def victim(self, newcomer):
        main = next(iter(self.free(self.probation) + self.free(self.protected)), None)
        if main is None:
            return next(iter(self.free(self.window)), None)
        if self.total(self.window) + newcomer.size <= 0.01 * self.capacity:
            return main
        candidate = self.window[0] if self.window else newcomer.key
        if self.pins[candidate]:
            return main
        coming = candidate == newcomer.key
        if self.seen.estimate(candidate) + coming > self.seen.estimate(main):
            if not coming:
                self.window.remove(candidate)
                self.probation.append(candidate)
            return main
        if coming:
            self.seen.count(candidate)
        return candidate

    def removed(self, key, evicted):
        for segment in (self.window, self.probation, self.protected):
            if key in segment:
                segment.remove(key)


class PlainReuseOdds(Plain):
    """Records every event, and counts all of them again when the odds are computed."""

    def __init__(self, capacity):
        super().__init__(capacity)
        self.clock = self.order = self.fits = 0
        self.due = capacity / FITS
        self.entered, self.again = [], []  # (fit, class), (fit, class, age)
        self.history = {}  # key: (clock, uses, order)
        self.ghosts = {}
        self.table = self.odds()

    def group(self, uses):
        return bisect_right(CLASSES, uses)

    def age(self, clock):
        return min(BINS * SPAN - 1, int((self.clock - clock) / (self.capacity / BINS)))

    def enter(self, key, known):
        self.order += 1
        uses = known[1] if known is not None else 0
        self.entered.append((self.fits, self.group(uses + 1)))
        self.history[key] = (self.clock, uses + 1, self.order)

    def leave(self, known):
        clock, uses, _ = known
        self.again.append((self.fits, self.group(uses), self.age(clock)))

    def added(self, key, cost):
        known, _ = self.ghosts.pop(key, (None, 0))
        if known is not None:
            self.leave(known)
        self.clock += self.sizes[key]
        self.enter(key, known)
        if self.clock >= self.due:
            self.due = self.clock + self.capacity / FITS
            self.table = self.odds()
            self.fits += 1

    def touch(self, key):
        self.leave(self.history[key])
        self.enter(key, self.history[key])

    def odds(self):
        ages = BINS * SPAN
        fade = [KEPT ** (self.fits - fit) for fit in range(self.fits + 1)]
        table = {}
        for group in range(len(CLASSES) + 1):
            entered = sum(fade[fit] for fit, one in self.entered if one == group)
            uses = [0.0] * ages
            for fit, one, age in self.again:
                if one == group:
                    uses[age] += fade[fit]
            for age in range(ages):
                at_risk = max(0.0, entered - sum(uses[:age]))
                soon = sum(uses[age : age + BINS]) + PRIOR * (1 - age / ages)
                table[group, age] = min(1.0, soon / (at_risk + 1))
        return table

    def victim(self, newcomer):
        heads = {}  # in each class, the key unused for longest
        for key in self.free(self.sizes):
            clock, uses, order = self.history[key]
            group = self.group(uses)
            if group not in heads or order < heads[group][1]:
                heads[group] = (round(self.table[group, self.age(clock)], 12), order, clock, key)
        ranked = [(odds, clock, group, key) for group, (odds, _, clock, key) in heads.items()]
        return min(ranked, default=(None,))[-1]

    def removed(self, key, evicted):
        known = self.history.pop(key)
        if evicted:
            self.ghosts[key] = (known, self.sizes[key])
            while sum(size for _, size in self.ghosts.values()) > SPAN * self.capacity:
                del self.ghosts[next(iter(self.ghosts))]


PLAIN: dict[str, type[Plain]] = {
    "lru": PlainLRU,
    "arc": PlainARC,
    "lfu-da": PlainValued,
    "greedy-dual": PlainGreedyDual,
    "s3-fifo": PlainS3FIFO,
    "sieve": PlainSieve,
    "w-tinylfu": PlainWTinyLFU,
    "reuse-odds": PlainReuseOdds,
}
