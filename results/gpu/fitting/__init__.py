"""Constants from what was measured."""
