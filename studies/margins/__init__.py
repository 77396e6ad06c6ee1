"""What a margin is worth on few faces, beside none. See docs/head.md."""
