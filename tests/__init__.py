"""The tests of kmem-harness."""
