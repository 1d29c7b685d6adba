r"""Work of rank 0 that takes longer than the others may wait in one collective."""

import threading
from types import SimpleNamespace

import pytest

from hpcinv.training import alone as room
from hpcinv.training.alone import alone


def _rank0(monkeypatch, enough):
    monkeypatch.setattr(room, "PATIENCE", 0.01)
    told, heard = [], threading.Event()

    def broadcast(done):
        told.append(done)
        if len(told) == enough:
            heard.set()
        return done

    return SimpleNamespace(rank=0, size=2, broadcast=broadcast), told, heard


def test_the_others_hear_that_rank_0_still_works(monkeypatch):
    world, told, heard = _rank0(monkeypatch, enough=3)
    assert alone(world, lambda: heard.wait(60) and 7) == 7
    assert told[:3] == [False] * 3 and told[-1] is True and told.count(True) == 1
    said = iter(told)
    other = SimpleNamespace(rank=1, size=2, broadcast=lambda _: next(said))
    assert alone(other, lambda: pytest.fail("rank 1 has nothing to do")) is None
    assert next(said, "all heard") == "all heard"


def test_a_failure_is_told_as_it_was_and_not_as_an_end(monkeypatch):
    world, told, heard = _rank0(monkeypatch, enough=1)

    def work():
        heard.wait(60)
        raise ZeroDivisionError("as it was")

    with pytest.raises(ZeroDivisionError, match="as it was"):
        alone(world, work)
    assert True not in told
