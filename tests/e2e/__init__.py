"""End to end: real programs under the real command line, judged from outside."""
