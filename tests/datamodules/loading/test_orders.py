"""What processes are told to make, against a plain model of processes, which answer in the order of their orders."""

from collections import deque
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.loading.orders import OrderBook, Pass
from datamodules.loading.sampling import ViewKey
from datamodules.loading.slots import Order, OrderedBatches, Slots, opened
from selavi.batch import NUM_DRAWS, DecodedClip

PREFETCH = 4
"""Orders on their way of all processes together."""


class Numbered:
    """Clips of one number, their row."""

    def __getitem__(self, key: ViewKey) -> DecodedClip:
        value = torch.tensor([key.row], dtype=torch.uint8)
        return DecodedClip(key.row, {"video": value}, {"video": True}, torch.full((NUM_DRAWS,), 0.5), None)


class Processes:
    """What LoaderProcesses does with an OrderBook of two datasets, in this process."""

    def __init__(self, num_slots: int = PREFETCH + 2) -> None:
        self.book = OrderBook()
        self.book.slots = [Slots(num_slots, 1) for _ in range(2)]
        self.made = OrderedBatches([Numbered(), Numbered()], self.book.slots)
        self.begin()

    def begin(self) -> None:
        self.orders, self.on_way = self.book.orders(), deque[Order]()

    def lose(self) -> None:
        self.book.take_back()
        self.begin()

    def batches(self, source: int, rows: range) -> Iterator[tuple[Pass, list[int]]]:
        own = self.book.begin(source, ([ViewKey(row, "label", 0)] for row in rows))
        try:
            while True:
                self.book.turn_to(own)
                if own.arrived and not self.book.can_order_more(own):
                    yield own, opened(own.arrived.popleft()).inputs["video"].flatten().tolist()
                elif own.is_over():
                    return
                else:
                    self.receive()
        finally:
            self.book.end(own)

    def receive(self) -> None:
        self.on_way.extend(next(self.orders) for _ in range(PREFETCH - len(self.on_way)))
        batch = self.made.__getitems__(self.on_way.popleft())
        self.on_way.append(next(self.orders))
        self.book.note(batch)

    def is_at_rest(self) -> bool:
        return all(len(pool.free) == len(pool.memory) and not pool.in_flight for pool in self.book.slots)


def test_a_pass_in_the_middle_of_another_loses_nothing_of_it() -> None:
    processes = Processes()
    outer = processes.batches(0, range(20))
    seen = [next(outer)[1] for _ in range(7)]
    inner = list(processes.batches(1, range(50, 60)))
    assert [rows for _, rows in inner] == [[row] for row in range(50, 60)]
    assert [order.source for order in processes.on_way if order.keys] == [0] * 2  # as many as had a slot
    own, rows = next(outer)
    assert [*seen, rows] == [[row] for row in range(8)]
    assert len(own.arrived) == 3 and all(order.source == 0 for order in processes.on_way if order.keys)
    assert [rows for _, rows in outer] == [[row] for row in range(8, 20)]
    for _ in range(PREFETCH):
        processes.receive()
    assert processes.is_at_rest()


def test_at_the_begin_of_a_pass_all_processes_get_work() -> None:
    processes = Processes()
    assert len(list(processes.batches(0, range(3)))) == 3
    assert not any(order.keys for order in processes.on_way)
    other = processes.batches(1, range(9))
    assert next(other)[1] == [0]
    assert [order.keys[0].row for order in processes.on_way] == [1, 2, 3, 4]


def test_a_pass_that_is_begun_anew_ends_the_earlier_one() -> None:
    processes = Processes()
    first = processes.batches(0, range(9))
    next(first)
    assert [rows for _, rows in processes.batches(0, range(3))] == [[0], [1], [2]]
    with pytest.raises(RuntimeError, match="another pass over the same dataset has begun"):
        next(first)
    assert processes.is_at_rest()


STEPS = ["outer", "outer", "inner", "inner", "lose", "leave outer", "leave inner"]


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=60), num_slots=st.integers(0, PREFETCH + 2))
def test_whatever_is_asked_lost_and_left(steps: list[str], num_slots: int) -> None:
    """Each pass gets its own batches in order, each once; every slot comes back."""
    processes = Processes(num_slots)
    now: dict[str, Iterator[tuple[Pass, list[int]]]] = {}
    due: dict[str, deque[int]] = {}
    for step in steps:
        if step == "lose":
            processes.lose()
            continue
        name = step.rpartition(" ")[2]
        if step.startswith("leave"):
            now.pop(name, None)
            continue
        if name not in now:
            source, rows = (0, range(11)) if name == "outer" else (1, range(100, 105))
            now[name], due[name] = processes.batches(source, rows), deque(rows)
        own, rows = next(now[name], (None, None))
        assert rows == ([due[name].popleft()] if due[name] else None)
        if own is None:
            del now[name]
    now.clear()
    for _ in range(PREFETCH):
        processes.receive()
    assert processes.is_at_rest()
