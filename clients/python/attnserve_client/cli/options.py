# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str, typer.Option("--address", envvar="ATTNSERVE_ADDRESS", metavar="HOST:PORT", help="The server's gRPC address.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="For each answer, retries included.")]
ModelId = Annotated[str, typer.Option("--model", metavar="ID", help="The model; the server's default unless given.")]
BeamSize = Annotated[int | None, typer.Option("--beam-size", metavar="N", help="Hypotheses kept at each step; 1 is greedy.")]
LengthPenalty = Annotated[
    float | None,
    typer.Option("--length-penalty", metavar="X", help="Exponent of the length that scores are divided by."),
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Pieces of an answer at most.")]
MaxInFlight = Annotated[int, typer.Option("--max-in-flight", min=1, metavar="N", help="Texts under way at once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
