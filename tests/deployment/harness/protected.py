"""Settings of runs whose updates carry noise, and of those that are summed under masks."""

# So much noise, so rarely, that a few rounds fit into the budget every policy starts with.
NOISE_MULTIPLIER, SAMPLE_RATE, STEPS = 2.0, 0.25, 4

PRIVATE = (
    "privacy.enabled=true",
    f"privacy.noise_multiplier={NOISE_MULTIPLIER}",
    f"privacy.sample_rate={SAMPLE_RATE}",
    f"privacy.steps_per_round={STEPS}",
    "privacy.expected_units=7",
    "federation.aggregation=uniform-mean",
)
SECURE = ("secure_aggregation.enabled=true",)
