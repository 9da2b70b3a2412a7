"""The rings of the journal: compact columns that hold the last of something, and forget the oldest for the newest."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from mmap import mmap
from typing import Any, Generic, TypeVar

from pushgate.request_id import Entry

MOST_WORDS = 4096
"""Different reasons, lanes and callers. They come from fixed lists and the configuration: this is never reached."""

W = TypeVar("W")
_WORD = 0xFFFFFFFF


class Words(Generic[W]):
    """Words by number. Those beyond `MOST_WORDS` share the number of the first that was too many."""

    def __init__(self, known: Sequence[W] = ()) -> None:
        self._words = list(known)
        self._numbers = {word: number for number, word in enumerate(known)}

    def number(self, word: W) -> int:
        number = self._numbers.get(word)
        if number is None:
            if len(self._words) >= MOST_WORDS:
                return MOST_WORDS - 1
            number = self._numbers[word] = len(self._words)
            self._words.append(word)
        return number

    def word(self, number: int) -> W:
        return self._words[number]


class Requests:
    """The last requests, each with a number that rises."""

    def __init__(self, most: int) -> None:
        self.next = 0
        self._most = most
        self._ids: list[bytes] = [b""] * most
        self._at: MutableSequence[float] = _column("d", most)
        self._caller: MutableSequence[int] = _column("H", most)
        self._status: MutableSequence[int] = _column("H", most)
        self._first: MutableSequence[int] = _column("Q", most)
        self._count: MutableSequence[int] = _column("I", most)
        self._repeats: MutableSequence[int] = _column("I", most)

    def add(
        self, entries: Sequence[Entry], *, callers: Sequence[int], firsts: Sequence[int], counts: Sequence[int]
    ) -> None:
        """`firsts`: the number of the first delivery of each, `counts`: how many it has."""
        late = max(len(entries) - self._most, 0)
        self.next += late  # there was no room for these
        kept = entries[late:]
        at = self.next % self._most if self._most else 0
        _write(self._ids, at, [entry.request_id for entry in kept])
        _write(self._at, at, array("d", [entry.at for entry in kept]))
        _write(self._caller, at, array("H", callers[late:]))
        _write(self._status, at, array("H", [entry.status for entry in kept]))
        _write(self._first, at, array("Q", firsts[late:]))
        _write(self._count, at, array("I", counts[late:]))
        _write(self._repeats, at, array("I", [entry.repeats for entry in kept]))
        self.next += len(kept)

    def numbers_of(self, request_id: bytes) -> list[int]:
        """The numbers of those with this id, the oldest first."""
        slots = _all(self._ids, request_id) if request_id else ()
        return sorted(self.next - 1 - (self.next - 1 - slot) % self._most for slot in slots)

    def number(self, low: int) -> int:
        """The whole number of a request whose last 32 bits these are, or -1 where it is not here any more."""
        number = self.next - ((self.next - low) & _WORD)
        return number if max(self.next - self._most, 0) <= number < self.next else -1

    def oldest_at(self) -> float:
        return self._at[self.next % self._most] if self._most else 0.0

    def id_of(self, number: int) -> bytes:
        return self._ids[number % self._most]

    def at(self, number: int) -> float:
        return self._at[number % self._most]

    def caller_of(self, number: int) -> int:
        return self._caller[number % self._most]

    def status_of(self, number: int) -> int:
        return self._status[number % self._most]

    def repeats_of(self, number: int) -> int:
        return self._repeats[number % self._most]

    def part_of(self, number: int) -> tuple[int, int]:
        slot = number % self._most
        return self._first[slot], self._count[slot]


class Deliveries:
    """The last deliveries, each with a number that rises: 22 bytes each."""

    def __init__(self, most: int) -> None:
        self.next = 0
        self.most = most
        self._ids = mmap(-1, max(16 * most, 1))
        self._lane: MutableSequence[int] = _column("H", most)
        self._request: MutableSequence[int] = _column("I", most)

    def add(self, ids: Sequence[str], lanes: Sequence[int], requests: Sequence[int]) -> None:
        late = max(len(ids) - self.most, 0)
        self.next += late  # there was no room for these
        raw = bytes.fromhex("".join(ids[late:]).replace("-", ""))
        columns = ((self._ids, raw, 16), (self._lane, array("H", lanes[late:]), 1))
        for ring, values, width in (
            *columns,
            (self._request, array("I", [each & _WORD for each in requests[late:]]), 1),
        ):
            _write(ring, self.next % self.most * width if self.most else 0, values)
        self.next += len(ids) - late

    def number_of(self, raw: bytes) -> int:
        """The number of the one with this id, or -1."""
        position = self._ids.find(raw)
        while position >= 0 and position % 16:
            position = self._ids.find(raw, position + 1)
        if position < 0 or not any(raw):
            return -1
        return self.next - 1 - (self.next - 1 - position // 16) % self.most

    def id_of(self, number: int) -> bytes:
        start = number % self.most * 16
        return bytes(self._ids[start : start + 16])

    def lane_of(self, number: int) -> int:
        return self._lane[number % self.most]

    def request_of(self, number: int) -> int:
        """The last 32 bits of the number of its request."""
        return self._request[number % self.most]


def _column(code: Any, most: int) -> Any:
    """So many zeros of a type of `array`, in memory that counts from the first time on that it is written."""
    size = array(code).itemsize * most
    return memoryview(mmap(-1, size)).cast("B").cast(code) if size else array(code)


def _write(ring: Any, at: int, values: Any) -> None:
    """Put values into a ring from there on."""
    room = len(ring) - at
    ring[at : at + len(values)] = values[:room] if len(values) > room else values
    if len(values) > room:
        ring[: len(values) - room] = values[room:]


class Attempts:
    """The last outcomes, by what `hash` makes of the id of the delivery: 18 bytes each."""

    def __init__(self, most: int) -> None:
        self._next = 0
        self._most = most
        self._who = array("q", bytes(8 * most))
        self._at: MutableSequence[float] = _column("d", most)
        self._event: MutableSequence[int] = _column("H", most)

    def add(self, who: int, at: float, event: int) -> None:
        slot = self._next
        self._who[slot] = who
        self._at[slot] = at
        self._event[slot] = event
        self._next = slot + 1 if slot + 1 < self._most else 0

    def add_all(self, who: Sequence[int], at: float) -> None:
        """Those that were accepted, all at once."""
        if len(who) == 1:
            self.add(who[0], at, 0)
            return
        who = who[-self._most :]
        first = self._next
        _write(self._who, first, array("q", who))
        _write(self._at, first, array("d", (at,)) * len(who))
        _write(self._event, first, array("H", bytes(2 * len(who))))
        self._next = (first + len(who)) % self._most

    def of(self, who: int) -> list[tuple[float, int]]:
        """When and what, the oldest first."""
        slots = sorted(_all(self._who, who), key=lambda slot: (slot - self._next) % self._most)
        return [(self._at[slot], self._event[slot]) for slot in slots]


def _all(ring: Any, wanted: object) -> Iterator[int]:
    """The places in a ring where it is."""
    slot = -1
    while True:
        try:
            slot = ring.index(wanted, slot + 1)
        except ValueError:
            return
        yield slot
