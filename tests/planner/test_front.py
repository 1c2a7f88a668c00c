"""The front of cost and time: nothing in it is dominated, nothing outside it is not."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.planner.front import front
from lumina_cloud.planner.plan import plan
from tests.planner.conftest import machines, workloads

POINTS = st.lists(st.tuples(st.integers(0, 9).map(Decimal), st.integers(0, 9).map(float)), max_size=30)


def dominates(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and a != b


@given(POINTS)
def test_the_front_is_exactly_what_no_point_dominates(points):
    kept = front(points, lambda p: p)
    assert set(kept) == {n for n, p in enumerate(points) if not any(dominates(q, p) for q in points)}
    assert [points[n] for n in kept] == sorted(points[n] for n in kept)


@given(st.lists(workloads(), min_size=1, max_size=2), st.lists(machines(), min_size=1, max_size=6))
def test_a_plan_marks_the_front_of_what_fits(configs, market):
    made = plan(configs, market)
    points = {id(r): (r.estimate.usd.mid, r.estimate.hours.mid) for r in made.rows}
    fitting = [r for r in made.rows if r.estimate.fits]
    for row in made.rows:
        beaten = any(dominates(points[id(other)], points[id(row)]) for other in fitting)
        assert row.front == (row.estimate.fits and not beaten)
