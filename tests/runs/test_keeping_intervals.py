"""How often a run that may lose its machine saves: as often as loses least, if what it saves can be kept in that time."""

from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.runs import keeping

PARAMETERS = st.integers(10**5, 10**11)
MINUTES = st.floats(0.01, 600)
STORES = st.sampled_from([None, "s3://bucket"])


def test_a_small_model_saves_as_often_as_is_best_and_not_every_second():
    assert keeping.minutes_between(10**6, 4.0, 15.0, None) == 4.0
    assert keeping.minutes_between(10**6, 0.1, 15.0, None) == keeping.LEAST_MINUTES


@given(PARAMETERS, MINUTES, MINUTES, STORES)
def test_what_could_be_kept_at_the_usual_interval_can_be_kept_at_this_one(parameters, best, usual, store):
    def refused(minutes):
        try:
            keeping.decide(parameters, checkpoint_minutes=minutes, store=store)
        except keeping.RefusedError:
            return True
        return False

    made = keeping.minutes_between(parameters, best, usual, store)
    assert made >= keeping.LEAST_MINUTES
    if not refused(usual):
        # Kept to a hundredth of a minute.
        assert not refused(made + 0.01)
