# SPDX-License-Identifier: Apache-2.0
"""Content of the requests and answers of single-pass models, whose answer is one run of one graph.

Tensors are those of one request: without the graph's batch axis, row-major, in native byte order, of the type that the manifest
declares. The structs are as those of ``request.py``.
"""

from __future__ import annotations

import msgspec

from attnserve_server.request import Done, Failed, Work


class PassTensor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A tensor of one request."""

    shape: tuple[int, ...]
    data: bytes


class PassPayload(msgspec.Struct, tag="pass", array_like=True, omit_defaults=True, gc=False):
    """Inputs of the graph by name, and whether its attention outputs are wanted.

    Only requests with the same shapes and the same wish share a batch.
    """

    inputs: dict[str, PassTensor]
    wants_attention: bool = False
    num_source: int = 1
    """Number of attended positions, in proportion to which the request costs time."""

    @property
    def num_rows(self) -> int:
        """See ``kinds.py: Payload``: a place in a batch."""
        return 1

    @property
    def num_pieces(self) -> int:
        """See ``kinds.py: Payload``: it has no text."""
        return 0

    @property
    def max_steps(self) -> int:
        """See ``kinds.py: Payload``: one run."""
        return 1

    @property
    def is_reproducible(self) -> bool:
        """See ``kinds.py: Payload``."""
        return True


class PassOutcome(msgspec.Struct, tag="pass", array_like=True, omit_defaults=True, gc=False):
    """Outputs of the graph by name; those that are attention only if they were wanted."""

    outputs: dict[str, PassTensor]
    batch_size: int = 1
    """Requests of its batch, this one included."""

    @property
    def num_generated(self) -> int:
        """See ``kinds.py: Outcome``: no token."""
        return 0

    @property
    def num_bytes(self) -> int:
        """Size of the outputs."""
        return sum(len(tensor.data) for tensor in self.outputs.values())

    def as_part(self, request_id: int) -> None:
        """See ``kinds.py: Outcome``: the kind does not stream."""
        return


PassWork = Work[PassPayload]
PassDone = Done[PassOutcome]
"""``admitted_at`` is the beginning of the batch's run and ``encode_s`` its duration; there is one step."""
PassEvent = Done[PassOutcome] | Failed
