"""Which crash states are looked at: of each epoch every prefix of its writes, and a seeded family of subsets.

A state of an epoch says which pieces of its writes reached the disk, as bits of a number. All writes of earlier epochs did. The crash
comes at the end of the epoch, when the most has been acknowledged: whatever earlier crash leaves the same bytes asks for less.
"""

import random


class Choice:
    """The states of one epoch."""

    def __init__(self, epoch, is_last, seed):
        self.pieces = [write.pieces() for write in epoch.writes]
        self.random = random.Random(seed)
        self.masks = []
        first = 0
        for pieces in self.pieces:
            self.masks.append(((1 << len(pieces)) - 1) << first)
            first += len(pieces)
        self.count = first
        self.all = (1 << first) - 1
        # All writes of an epoch are the first state of the next one.
        self.prefixes = [sum(self.masks[:n]) for n in range(len(self.masks) + is_last)]
        self.seen = {*self.prefixes, self.all}

    def subset(self):
        """A state that was not there before; None if none was found."""
        for _ in range(8):
            state = self._subset()
            if state not in self.seen:
                self.seen.add(state)
                return state
        return None

    def _subset(self):
        some = self.random
        family = some.randrange(8)
        n = len(self.masks)
        if family == 0:  # one write is missing
            return self.all & ~some.choice(self.masks)
        if family == 1:  # one write came first
            return some.choice(self.masks)
        if family == 2:  # writes at random
            return sum(mask for mask in self.masks if some.random() < 0.5)
        if family == 3:  # pieces at random
            return some.getrandbits(self.count)
        if family == 4:  # the last write is torn
            return (1 << some.randrange(self.count + 1)) - 1
        if family == 5:  # the first writes are missing
            return sum(self.masks[some.randrange(n):])
        if family == 6:  # a run of writes is missing
            begin = some.randrange(n)
            return self.all & ~sum(self.masks[begin:begin + 1 + some.randrange(n - begin)])
        # a prefix of which one write is missing
        end = 1 + some.randrange(n)
        return sum(self.masks[:end]) & ~self.masks[some.randrange(end)]


def choose(epochs, wanted, seed, every_prefix):
    """For each epoch its pieces and its states, `wanted` in all if there are so many; and how many of them are prefixes, of how many.

    Without `every_prefix`, some prefixes are left out if there are more than `wanted`, to have subsets as well.
    """
    choices = [Choice(epoch, epoch is epochs[-1], f"{seed}/{n}") for n, epoch in enumerate(epochs)]
    prefixes = [(n, state) for n, choice in enumerate(choices) for state in choice.prefixes]
    every = len(prefixes)
    if every > wanted and not every_prefix:
        step = 2 * every / wanted
        prefixes = [prefixes[int(n * step)] for n in range(wanted // 2)]
    chosen = [[] for _ in choices]
    for n, state in prefixes:
        chosen[n].append(state)
    left = wanted - len(prefixes)
    living = [n for n, choice in enumerate(choices) if choice.count > 1]
    order = random.Random(seed)
    while left > 0 and living:
        order.shuffle(living)
        still = []
        for n in living[:left]:
            state = choices[n].subset()
            if state is not None:
                chosen[n].append(state)
                still.append(n)
                left -= 1
        living = still
    return [(choice.pieces, found) for choice, found in zip(choices, chosen)], len(prefixes), every
