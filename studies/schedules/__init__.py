"""Does the shape of the learning rate matter, and does watching the loss? See docs/schedules.md."""
