import pytest
from workloads import OBEDIENT


@pytest.fixture
def obedient(kmem_container):
    """A container that does as it is told, started before the test's body."""
    return kmem_container(**OBEDIENT)
