"""Specs: what operators write, as text and as domain values. One table drives reading, writing and the JSON Schema.

Read text with `read_specs`, decoded JSON with `read_documents`; write with `to_plain` and `to_yaml`; describe with
`json_schema`. A mistake never gets past this package: one `SpecProblems` reports every problem of the whole input.
"""

from router.spec.documents import Document, SpecSource, read_documents, read_specs
from router.spec.problems import Mark, OutOfReach, Problem, SpecProblems
from router.spec.schema import json_schema
from router.spec.writing import to_plain, to_yaml, written_plain

__all__ = [
    "Document",
    "Mark",
    "OutOfReach",
    "Problem",
    "SpecProblems",
    "SpecSource",
    "json_schema",
    "read_documents",
    "read_specs",
    "to_plain",
    "to_yaml",
    "written_plain",
]
