"""Classes of the standard library's unittest."""

import unittest

import pytest
from workloads import OBEDIENT, tell


@pytest.mark.limit_kmem("16k")
class TestServer(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _containers(self, kmem_container):
        self.kmem_container = kmem_container

    def test_class_has_a_limit(self):
        box = self.kmem_container(**OBEDIENT)
        self.assertEqual(tell(box, "fork", 9), [2, "ENOMEM"])

    @pytest.mark.limit_kmem("8k")
    def test_method_is_nearer(self):
        box = self.kmem_container(**OBEDIENT)
        self.assertEqual(tell(box, "fork", 9), [1, "ENOMEM"])

    @pytest.mark.limit_kmem_leaks
    def test_leak_fails(self):
        self.assertEqual(tell(self.kmem_container(**OBEDIENT), "fork", 1), [1, None])

    def test_refusal_fails(self):
        box = self.kmem_container(**OBEDIENT)
        self.assertEqual(tell(box, "fork", 9), [9, None])
