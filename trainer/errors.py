"""Why a training run ends before its last step."""


class DataError(Exception):
    """The text to train on is missing, empty or unreadable."""


class LossNotFinite(Exception):
    """The loss became infinite or not a number: going on would only cost money."""


class Stopped(Exception):
    """Asked to stop; a checkpoint was written where there was something to keep."""
