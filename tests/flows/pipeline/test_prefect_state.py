"""What Prefect's server is spared."""

from prefect import tags
from prefect.context import TagsContext

from flows.pipeline.prefect_state import untagged


def test_a_flow_s_tags_are_not_those_of_its_tasks():
    with tags("smoke"):
        with untagged():
            assert TagsContext.get().current_tags == set()
        assert TagsContext.get().current_tags == {"smoke"}
