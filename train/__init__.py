"""Training: backbones, heads, schedules and the run that joins them."""
