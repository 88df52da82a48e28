"""Checks of what a user gave, worded alike wherever they are made; numpy only."""

from transom.validation.documents import checked_ends, checked_offsets
from transom.validation.entries import (
    check_names,
    check_texts,
    given_ids,
    given_quotas,
    given_seconds,
)
from transom.validation.keywords import check_keywords, known_keywords
from transom.validation.numbers import whole_number
from transom.validation.paths import given_folder, named_path
from transom.validation.token_ids import check_ids

__all__ = [
    "check_ids",
    "check_keywords",
    "check_names",
    "check_texts",
    "checked_ends",
    "checked_offsets",
    "given_folder",
    "given_ids",
    "given_quotas",
    "given_seconds",
    "known_keywords",
    "named_path",
    "whole_number",
]
