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
NumHypotheses = Annotated[
    int | None, typer.Option("--num-hypotheses", metavar="N", help="Answers to each: rank, score and text of each.")
]
LengthPenalty = Annotated[
    float | None,
    typer.Option("--length-penalty", metavar="X", help="Exponent of the length that scores are divided by."),
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Pieces of an answer at most.")]
MinTokens = Annotated[int | None, typer.Option("--min-tokens", metavar="N", help="Pieces of an answer at least.")]
CoveragePenalty = Annotated[
    float | None,
    typer.Option("--coverage-penalty", metavar="X", help="Weight of the coverage penalty: prefer answers that leave nothing out."),
]
NoRepeatNgram = Annotated[
    int | None, typer.Option("--no-repeat-ngram", metavar="N", help="No N pieces in a row twice in an answer; 0 allows all.")
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", metavar="X", help="Above 1: pieces that are there already become less probable."),
]
SplitSentences = Annotated[
    bool, typer.Option("--split-sentences", help="Translate each sentence of a text by itself, and join the answers.")
]
Sample = Annotated[bool, typer.Option("--sample", help="Draw pieces at random instead of searching; so do the next four.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="X", help="Below 1 the probable becomes more so, above 1 less. [server: 1]")
]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="N", help="Draw from the N most probable pieces only; 0 for all.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", metavar="X", help="Draw from the fewest pieces only that have this probability together.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The same seed, the same answer.")]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="What each answer must begin with.")]
Priority = Annotated[int, typer.Option("--priority", metavar="N", help="From -2 to 2, higher is sooner.")]
MaxInFlight = Annotated[int, typer.Option("--max-in-flight", min=1, metavar="N", help="Texts under way at once.")]
ImagesInFlight = Annotated[int, typer.Option("--max-in-flight", min=1, metavar="N", help="Images under way at once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
