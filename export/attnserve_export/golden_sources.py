# SPDX-License-Identifier: Apache-2.0
"""Inputs that golden answers are chosen from: made up, so that they stand on no terms of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnserve.v1 import manifest_pb2
from attnserve_export.parity_sources import Array

SENTENCES = {
    "en": (
        "A brown dog is running through the snow.",
        "Two children are playing in the sand.",
        "A man in a red shirt is riding a bicycle.",
        "A woman in a white dress is standing in front of a house.",
        "Three men are sitting on a bench.",
        "A young girl is jumping into a swimming pool.",
        "A man is cooking in a kitchen.",
        "Several people are waiting for a train.",
        "A black cat is sleeping on a car.",
        "A boy in a blue jacket is throwing a ball.",
        "An old woman is selling fruit at a market.",
        "Four workers are repairing a street.",
        "A man with a hat is playing the guitar.",
        "A little boy is eating an apple.",
        "Two dogs are fighting over a toy.",
        "A woman is reading a book in a park.",
        "A group of people is hiking up a mountain.",
        "A man is fishing at a lake.",
        "Two women are talking to each other.",
        "A child in a yellow coat is walking along the beach.",
        "A football player is kicking the ball.",
        "A man is climbing up a rock.",
        "People are dancing at a party.",
        "A girl with long hair is looking at the camera.",
        "A man in a black suit is walking down the street.",
        "The children are swimming in the sea.",
        "A white dog is jumping over a fence.",
        "A woman is painting a picture.",
        "Two boys are standing on a bridge.",
        "A man is pushing a stroller across the street.",
        "A bird is flying over the water.",
        "A man and a woman are sitting at a table.",
    ),
}
"""By language; what the shipped models were trained on is like them."""


def made_up_images(count: int, height: int, width: int) -> Sequence[Array]:
    """Fields of colour, uint8 (height, width, 3) each: 2 to 16 squares a side, so that zlib makes them small."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(count):
        side = (2, 4, 8, 16)[index % 4]
        squares = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
        rows, columns = (np.arange(size) * side // size for size in (height, width))
        images.append(squares[rows][:, columns])
    return images


def made_up_clips(declared: manifest_pb2.ClipInput) -> Sequence[Array]:
    """Clips of squares that move over a field of colour, uint8 (frames, height, width, 3) each; one is still."""
    size, clips = declared.size, list[Array]()
    for count, field in zip((4, 0, 8), made_up_images(3, size.height, size.width), strict=True):
        rng = np.random.default_rng(count)
        clip = np.repeat(field[None], declared.frames, 0)
        side = size.height // 7
        places = rng.integers(0, size.height - side, (count, 2))
        steps, colours = rng.integers(-5, 6, (count, 2)), rng.integers(0, 256, (count, 3))
        for number, frame in enumerate(clip):
            for place, step, colour in zip(places, steps, colours, strict=True):
                row, column = (place + number * step) % (size.height - side)
                frame[row : row + side, column : column + side] = colour
        clips.append(clip)
    return clips
