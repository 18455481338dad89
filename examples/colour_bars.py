"""Colour bars: shows a test card, fifteen pictures a second, with a line that moves.

livekit-agent dev examples/colour_bars.py --room demo
"""

import anyio
import numpy as np

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.rooms import VideoFrame, VideoSource

WIDTH, HEIGHT, RATE = 640, 360, 15
COLOURS = ("ffffff", "ffff00", "00ffff", "00ff00", "ff00ff", "ff0000", "0000ff")

handler = SimpleUniversalHandler()


def test_card() -> np.ndarray:
    card = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    for number, colour in enumerate(COLOURS):
        bar = slice(number * WIDTH // len(COLOURS), (number + 1) * WIDTH // len(COLOURS))
        card[:, bar, :3] = list(bytes.fromhex(colour))
    return card


@handler.job_assigned
async def show(ctx: JobContext) -> None:
    source = VideoSource(WIDTH, HEIGHT)
    await ctx.room.local_participant.publish_video(source, name="test card")
    card, number = test_card(), 0
    due = anyio.current_time()
    while True:
        picture = card.copy()
        picture[:, number % WIDTH] = 0
        source.capture_frame(VideoFrame.of(picture))
        number += 4
        due += 1 / RATE  # from picture to picture, so that what a picture takes does not add up
        await anyio.sleep_until(due)
