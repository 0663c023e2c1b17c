"""Rollouts that run: what is observed becomes events, the domain decides, and what it decides is saved and done."""
