"""Shared settings of the tests."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# Some tests start pbal in a process of its own, a hundred times in all: without byte code each would compile all of it first.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONG = frozenset(
    {
        "test_browser.py", "test_client_js.py", "test_poll_proofs.py", "test_signals.py", "test_client.py", "test_config.py",
        "test_reloading.py", "test_poll_model.py", "test_same_requests.py", "test_pool_events.py", "test_writing.py", "test_mistakes.py",
        "test_console.py", "test_docs.py", "test_plugin_authors.py", "test_life.py", "test_start.py", "test_tls_abuse.py",
    }
)  # fmt: skip
"""Files that take half a minute or more."""

# The same examples each time: what a change broke is seen, and nothing else. PBAL_EXPLORE=1 looks for new ones.
settings.register_profile("pbal", deadline=None, max_examples=60, derandomize=not os.environ.get("PBAL_EXPLORE"))
settings.load_profile("pbal")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: begun last, one of them would keep the others waiting for it alone."""
    long = {item.path for item in items if item.get_closest_marker("slow")} | {item.path for item in items if item.path.name in LONG}
    items.sort(key=lambda item: item.path not in long)
