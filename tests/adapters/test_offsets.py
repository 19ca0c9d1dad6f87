from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.adapters.offsets import Offsets


class Naive:
    """The same from the definition: everything below the committable offset that was ever started is finished."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.finished: dict[int, str] = {}

    def committable(self) -> int | None:
        unfinished = [offset for offset in self.started if offset not in self.finished]
        if unfinished:
            return min(unfinished)
        return max(self.started) + 1 if self.started else None

    def waiting(self) -> list[str]:
        position = self.committable()
        return sorted(name for offset, name in self.finished.items() if position is not None and offset >= position)


@given(st.data())
def test_agrees_with_the_definition(data: st.DataObject) -> None:
    offsets, naive, open_offsets, following = Offsets(), Naive(), [], 0
    for _ in range(data.draw(st.integers(0, 60))):
        if open_offsets and data.draw(st.booleans()):
            offset = open_offsets.pop(data.draw(st.integers(0, len(open_offsets) - 1)))
            offsets.finish(offset, f"name-{offset}")
            naive.finished[offset] = f"name-{offset}"
        else:
            offset = following + data.draw(st.integers(0, 3))  # Gaps: markers of transactions, compaction.
            following = offset + 1
            offsets.start(offset)
            naive.started.append(offset)
            open_offsets.append(offset)
        assert offsets.committable == naive.committable()
        assert sorted(offsets.waiting) == naive.waiting()


def test_nothing_is_committable_before_the_first_record() -> None:
    assert Offsets().committable is None


def test_a_finished_offset_above_an_unfinished_one_is_not_committable() -> None:
    offsets = Offsets()
    for offset in (5, 6, 9):
        offsets.start(offset)
    offsets.finish(9, "nine")
    offsets.finish(6, "six")
    assert (offsets.committable, sorted(offsets.waiting), len(offsets)) == (5, ["nine", "six"], 3)
    offsets.finish(5, "five")
    assert (offsets.committable, offsets.waiting, len(offsets)) == (10, [], 0)


def test_an_offset_out_of_order_is_refused() -> None:
    offsets = Offsets()
    offsets.start(7)
    with pytest.raises(ValueError, match="offset 7 after position 8"):
        offsets.start(7)
