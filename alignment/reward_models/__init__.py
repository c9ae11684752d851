"""Says which reward models are trained and on which margins, trains one, and saves it."""
