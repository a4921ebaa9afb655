# SPDX-License-Identifier: Apache-2.0
"""LitServe with the graph: ``python litserve_app.py SETTINGS.json PORT``. Pictures come as form data with a file ``image``.

LitServe reads the annotations themselves, so they must not be strings.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve  # pyright: ignore[reportMissingImports]
from fastapi import Request, Response  # pyright: ignore[reportMissingImports]

from attnserve_loadtest.bench.passes.work import Sample, Settings, Work

Answer = tuple[Sample, list[Any]]


class Single(litserve.LitAPI):  # type: ignore[misc]
    """One picture after the other."""

    settings: Settings

    def setup(self, device: str) -> None:
        """Loads the model, in each worker."""
        self.work = Work(self.settings)

    def decode_request(self, request: Request) -> Sample:
        """The picture of a request: LitServe passes the form of the annotated ``Request``."""
        form: Any = request
        return self.work.read(form["image"].file.read())

    def predict(self, x: Sample) -> Answer:
        """One run."""
        return x, self.work.run([x])[0]

    def encode_response(self, output: Answer) -> Any:
        """Classes, or the class map with the classes' areas in a header."""
        sample, outputs = output
        if self.settings.task == "classification":
            return self.work.top(outputs)
        png, areas = self.work.drawn(outputs, sample)
        return Response(png, media_type="image/png", headers={"X-Classes": json.dumps(areas)})


class Batched(Single):
    """Batches."""

    def batch(self, inputs: Sequence[Sample]) -> Sequence[Sample]:
        """Left as they are: ``run`` stacks them."""
        return inputs

    def predict(self, x: Any) -> Any:
        """One run of a batch."""
        return list(zip(x, self.work.run(x), strict=True))

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """An answer for each request."""
        return output


def main() -> None:
    """Entry point of the process."""
    settings = Settings.read(Path(sys.argv[1]))
    kind = Batched if settings.batch_size > 1 else Single
    api = kind(max_batch_size=settings.batch_size, batch_timeout=settings.wait_ms / 1e3 if settings.batch_size > 1 else 0.0)
    api.settings = settings
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=settings.workers, timeout=False, fast_queue=True
    )
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
