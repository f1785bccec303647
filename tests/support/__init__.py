"""Helpers of the tests: compile the test programs, and measure boxes from outside."""
