"""Phones, where no Python runs: adb, native runners, and records of what they tell."""
