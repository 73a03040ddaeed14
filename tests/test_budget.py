"""What does not fit is refused in words; what every machine has is not even compared."""

from __future__ import annotations

from mlxdiff import backend, budget


def test_a_share_of_the_memory(monkeypatch):
    monkeypatch.setattr(backend, "memory_size", lambda: 10 * 10**9)
    assert budget.fits(8 * 10**9)
    assert not budget.fits(8 * 10**9 + 1)
    assert budget.lack(9 * 10**9) == "needs 9.0 GB of memory, and 8.0 GB may be used"


def test_small_things_ask_nobody(monkeypatch):
    monkeypatch.setattr(backend, "memory_size", None)
    assert budget.fits(budget.MODEST)
