"""Lumina Cloud: plan, rent, train, bring back, switch off, and keep the books."""

__version__ = "0.1.0"
