"""What unequal training and cleaning are worth on long-tailed, noisy data. See docs/unequal.md."""
