"""Pure decisions: which endpoint, whether it is healthy, whether to try again. `now` and `rng` are arguments."""
