"""Calls that fail on purpose, whatever the limit."""

import pytest
from workloads import tell


@pytest.mark.kmem_fault("clone:error=EAGAIN:when=2")
def test_second_child_is_refused(obedient):
    assert tell(obedient, "fork", 3) == [1, "EAGAIN"]
    assert tell(obedient, "fork", 3) == [3, None]
