"""What loader processes are told to make, and for which pass: bookkeeping, without a process."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from datamodules.loading.sampling import ViewKey
from datamodules.loading.slots import Filled, Order, Slots, opened
from selavi.batch import ClipBatch


@dataclass(eq=False)
class Pass:
    """A pass over a dataset that somebody is in the middle of."""

    source: int
    """Number of the dataset."""
    todo: Iterator[Sequence[ViewKey]]
    """Batches that are not ordered yet."""
    on_way: int = 0
    """Batches that are ordered and have not arrived."""
    all_ordered: bool = False
    arrived: deque[ClipBatch | Filled] = field(default_factory=deque)
    """Batches that nobody has asked for yet."""

    def is_over(self) -> bool:
        """Whether every batch has been asked for."""
        return self.all_ordered and not self.on_way and not self.arrived


@dataclass(frozen=True)
class _Sent:
    """A batch that is on its way."""

    of: Pass | None
    """None: nothing was to be done when a process asked for work."""
    keys: Sequence[ViewKey] = ()
    slot: int | None = None


class OrderBook:
    """Orders for loader processes, without an end, whose batches arrive in the order in which they were told.

    The processes work for the pass that was asked last.  One may come in the middle of another, as a labelling does in
    an epoch: then what is on its way for the outer one is kept as it arrives, and once all of the inner one is ordered,
    the processes turn to the outer one again, as far as that has free slots:

        ordered      T5 T6 | L0 L1 ...  L9 T7 | T8 T9 ...     T: training, L: labelling
        asked for    .. T4 | L0 L1 ...  L8 L9 | T5 T6 ...
        arrives            | T5 T6 L0 ...  L9 | T7 T8 ...

    Where there is nothing to do, processes get an order without keys, and are back at once when they are needed.

    Attributes:
        slots: of each dataset.
    """

    def __init__(self) -> None:
        self.slots: list[Slots] = []
        self._passes: list[Pass] = []  # the one that was asked last is the last
        self._sent: deque[_Sent] = deque()
        self._again: deque[_Sent] = deque()  # lost with the processes that should have made them

    def begin(self, source: int, todo: Iterator[Sequence[ViewKey]]) -> Pass:
        """A new pass over a dataset, which ends an earlier one over the same."""
        for other in [one for one in self._passes if one.source == source]:
            self.end(other)
        self._passes.append(Pass(source, todo))
        return self._passes[-1]

    def turn_to(self, one: Pass) -> None:
        """Let the processes work for this pass.

        Raises:
            RuntimeError: it has ended.
        """
        if one not in self._passes:
            raise RuntimeError("another pass over the same dataset has begun, which ended this one")
        if one is not self._passes[-1]:
            self._passes.remove(one)
            self._passes.append(one)

    def end(self, one: Pass) -> None:
        """Forget a pass; what arrives of it frees its slot."""
        if one in self._passes:
            self._passes.remove(one)
        while one.arrived:
            opened(one.arrived.popleft())

    def can_order_more(self, one: Pass) -> bool:
        """Whether a process is waiting for work, and a batch more has a slot."""
        waiting = bool(self._sent) and self._sent[0].of is None
        return waiting and not one.all_ordered and bool(self.slots[one.source].free)

    def orders(self) -> Iterator[Order]:
        """What a process that asks for work shall make."""
        while True:
            sent = self._next()
            self._sent.append(sent)
            yield Order(sent.keys, sent.of.source if sent.of else 0, sent.slot)

    def _next(self) -> _Sent:
        while self._again:
            lost = self._again.popleft()
            if lost.of in self._passes:
                return replace(lost, slot=self.slots[lost.of.source].take())
        for one in reversed(self._passes):
            slots = self.slots[one.source]
            if one is not self._passes[-1] and not slots.free:
                break
            keys = next(one.todo, None)
            if keys is not None:
                one.on_way += 1
                return _Sent(one, keys, slots.take())
            one.all_ordered = True
        return _Sent(None)

    def note(self, batch: ClipBatch | Filled | None) -> None:
        """The next batch has arrived; None: a process that had nothing to do is back."""
        sent = self._sent.popleft()
        if batch is None:
            return
        if sent.of in self._passes:
            sent.of.on_way -= 1
            sent.of.arrived.append(batch)
        else:
            opened(batch)

    def waits_in_vain(self) -> bool:
        """Whether nobody wants the batch that arrives next."""
        return bool(self._sent) and self._sent[0].of not in (None, *self._passes)

    def next_keys(self, one: Pass) -> Sequence[ViewKey]:
        """Keys of the batch of a pass that has been on its way longest."""
        return next((sent.keys for sent in self._sent if sent.of is one), ())

    def take_back(self) -> None:
        """Order again, before anything else, what has not arrived: the processes that should have made it are gone."""
        for sent in reversed(self._sent):
            if sent.of is not None:
                self.slots[sent.of.source].give_back(sent.slot)
                self._again.appendleft(replace(sent, slot=None))
        self._sent.clear()
