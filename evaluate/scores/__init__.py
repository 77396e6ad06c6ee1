"""Scores of whole sets against each other: exact TAR at FAR and ranks, in bounded memory."""
