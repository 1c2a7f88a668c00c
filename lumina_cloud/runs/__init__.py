"""The life of a run: its states, the decision what to do next, and the controller that does it."""
