"""Labels of a chart: near their points, and clear of one another and of marks."""

import itertools
import random

import pytest

from kdnative.report.labels import Box, Wanted, place

FRAME = Box(0, 0, 600, 300)


def inside(box):
    return box.left >= FRAME.left and box.right <= FRAME.right and box.top >= FRAME.top and box.bottom <= FRAME.bottom


def test_a_label_stands_to_the_right_of_its_point_and_at_the_edge_to_the_left():
    near, far = place([Wanted("near", 50, 50, 6), Wanted("far", 590, 200, 6)], FRAME)
    assert near.x == 61 and abs(near.y - 50) < 12
    assert far.box.right == pytest.approx(579)


def test_labels_cover_neither_one_another_nor_marks():
    rng = random.Random(1)
    for _ in range(20):
        wanted = [Wanted("x" * rng.randint(5, 24), rng.uniform(40, 560), rng.uniform(30, 270), 8) for _ in range(6)]
        boxes = [p.box for p in place(wanted, FRAME)]
        assert all(map(inside, boxes))
        assert not any(a.shared(b) for a, b in itertools.combinations(boxes, 2))


def test_five_labels_of_one_place():
    boxes = [p.box for p in place([Wanted("the same", 300, 150, 6)] * 5, FRAME)]
    assert not any(a.shared(b) for a, b in itertools.combinations(boxes, 2))
    mark = Box(294, 144, 306, 156)
    assert not any(box.shared(mark) for box in boxes)


def test_a_line_is_avoided_where_there_is_room():
    free, *_ = place([Wanted("text", 100, 100, 6)], FRAME)
    line = Box(free.x + 10, 0, free.x + 12, 300)
    (moved,) = place([Wanted("text", 100, 100, 6)], FRAME, [line])
    assert free.box.shared(line) and not moved.box.shared(line)


def test_shared_area():
    assert Box(0, 0, 4, 4).shared(Box(2, 1, 9, 3)) == 4 and Box(0, 0, 1, 1).shared(Box(1, 0, 2, 1)) == 0
