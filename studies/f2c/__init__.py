"""What a dynamic class pool costs in accuracy beside the softmax. See docs/f2c.md."""
