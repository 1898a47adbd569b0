"""The section `compute`: what it decides, and what it may say."""

import pytest

from flows.project.resources import Compute
from tests.flows.compute import COMPUTE


def test_resources_decide_the_device():
    compute = Compute.of({"compute": COMPUTE})
    assert (compute.device_of("rl"), compute.device_of("teacher")) == ("cuda", "cpu")
    assert (compute.cpus_of("teacher"), compute.cpus_of("rl")) == (2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"backend": "address"}, "compute.address: missing"), ({"cpus": {}}, "cpus.default"), ({"gpu": 1}, "unknown")],
)
def test_compute_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Compute.of({"compute": COMPUTE | change})
