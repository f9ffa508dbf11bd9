"""Test-time compute: many samples of a problem, and what votes and searches among them buy."""
