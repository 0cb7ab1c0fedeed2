"""Items are asked in one order for a set, of which any beginning is a fair sample."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slmflow.quality.items import Item, Items, read_items
from slmflow.quality.order import first, nested

KINDS = ("multiple_choice", "closed", "instruction", "json")
sets = st.lists(st.sampled_from(KINDS), min_size=1, max_size=120).map(
    lambda kinds: [Item(f"item-{at}", kind, {}) for at, kind in enumerate(kinds)]
)


def ids(items):
    return [item.id for item in items]


@given(sets)
def test_every_beginning_has_the_kinds_in_proportion(items):
    order, counts = nested(items), Counter(item.kind for item in items)
    assert sorted(ids(order)) == sorted(ids(items))
    for number in range(1, len(order) + 1):
        asked = Counter(item.kind for item in order[:number])
        for kind, count in counts.items():
            share = count / len(items)
            assert abs(asked[kind] - number * share) <= 1 + share * len(counts)
    assert set(ids(order[: len(counts)])) == {
        next(i.id for i in order if i.kind == kind) for kind in counts
    }, "each kind from the first on"


@given(sets, st.data())
def test_the_first_n_are_those_of_any_larger_number_in_the_order_of_the_set(items, data):
    fewer = data.draw(st.integers(0, len(items)))
    more = data.draw(st.integers(fewer, len(items)))
    assert set(ids(first(items, fewer))) <= set(ids(first(items, more)))
    assert len(first(items, fewer)) == fewer
    places = [items.index(item) for item in first(items, more)]
    assert places == sorted(places)


@given(sets, st.randoms())
def test_the_order_knows_nothing_of_the_order_of_the_file_but_which_kind_comes_first(items, chance):
    mixed = list(items)
    chance.shuffle(mixed)
    by_kind = [[i.id for i in nested(one) if i.kind == kind] for one in (items, mixed) for kind in KINDS]
    assert by_kind[:4] == by_kind[4:]


def test_the_shipped_order_is_the_same_for_ever():
    """Champions were asked by it: another order would ask their successors other items."""
    items = read_items("shipped").rows
    assert ids(nested(items))[:8] == FIRST
    found = Counter(item.kind for item in first(items, 100))
    assert found == {"multiple_choice": 47, "closed": 24, "instruction": 18, "json": 11}


FIRST = [
    "science-14",
    "closed-05",
    "instruction-bread-long",
    "json-colours",
    "geography-08",
    "arithmetic-12",
    "closed-21",
    "instruction-fruits",
]


def test_all_of_a_set_is_the_set_itself_so_that_its_digest_is_the_one_of_before():
    items = read_items("shipped")
    assert Items(tuple(first(items.rows, len(items.rows)))).digest == items.digest
    assert Items(tuple(first(items.rows, 249))).digest != items.digest


def test_a_kind_is_drawn_and_not_taken_from_its_beginning():
    """What stands together in a file is often alike: the first n of a kind would be no sample of it."""
    items = [Item(str(at), "closed", {}) for at in range(200)]
    places = sorted(int(item.id) for item in first(items, 50))
    assert places[0] < 50
    assert places[-1] > 150
