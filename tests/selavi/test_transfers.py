import pytest
import torch

from selavi.transfers import LateReading, send


def test_a_reading_ends_once_with_what_it_is_of() -> None:
    reading = LateReading()
    assert reading.end() is None
    reading.begin(torch.tensor([1.5, 0.0], requires_grad=True), "step 1")
    with pytest.raises(AssertionError, match="a reading is under way"):
        reading.begin(torch.zeros(2), "step 2")
    assert reading.end() == ([1.5, 0.0], "step 1")
    assert reading.end() is None


def test_what_is_sent_arrives() -> None:
    sent = send(torch.arange(3), torch.device("cpu"))
    assert sent.tolist() == [0, 1, 2]
