"""Assertions of the chat player are shown with their values."""

import pytest

pytest.register_assert_rewrite("tests.support.chat")
