"""What a conversion found, for programs (JSON), for a review (Markdown) and for a screen (HTML)."""

from edge_converters.report.contents import (
    CandidateRow,
    CoverageRow,
    DriftRow,
    MemoryRow,
    ModelCard,
    OperatorRow,
    ParityRow,
    Report,
    coverage_rows,
    decode_report,
    encode_report,
    operator_rows,
    pareto_front,
)
from edge_converters.report.markdown import markdown_of
from edge_converters.report.page import page_of

__all__ = [
    "CandidateRow",
    "CoverageRow",
    "DriftRow",
    "MemoryRow",
    "ModelCard",
    "OperatorRow",
    "ParityRow",
    "Report",
    "coverage_rows",
    "decode_report",
    "encode_report",
    "markdown_of",
    "operator_rows",
    "page_of",
    "pareto_front",
]
