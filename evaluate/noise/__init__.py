"""Images that a run's classifier does not take for what their labels say."""
