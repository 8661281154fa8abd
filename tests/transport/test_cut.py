"""Links whose cable is cut: silence at both ends, and an end when it is mended."""

import asyncio
from typing import Any

from tests.support.links import linked, numbered

LONG = b"x" * 3_000_000


async def until_idle() -> None:
    """Let all that is on its way arrive."""
    for _ in range(200):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)


async def test_nothing_passes_a_cut_link_and_no_end_is_notified() -> None:
    async with linked() as pair:
        pair.dialled.send(numbered(1))
        await pair.accepted_ear.message()

        cuts = [pair.dialled.cut(), pair.accepted.cut()]
        pair.dialled.send(numbered(2))
        pair.accepted.send(numbered(3), (LONG,))
        await pair.accepted.drained()
        await until_idle()

        assert len(pair.accepted_ear.messages) == 1
        assert pair.dialled_ear.messages == []
        assert pair.dialled_ear.losses == pair.accepted_ear.losses == []
        assert pair.dialled.is_open
        for cut in cuts:
            cut.mend()
        await pair.dialled_ear.lost()
        await pair.accepted_ear.lost()


async def test_a_mended_link_ends_as_one_that_was_lost_without_old_messages() -> None:
    async with linked() as pair:
        pair.dialled.send(numbered(1), (LONG,))  # half of it is on its way
        cuts = [pair.accepted.cut(), pair.dialled.cut()]
        await until_idle()

        for cut in cuts:
            cut.mend()
            cut.mend()

        reason = await pair.dialled_ear.lost()
        await pair.accepted_ear.lost()
        assert reason == "the connection was lost: it had been cut off"
        assert pair.accepted_ear.messages == []


async def test_the_end_of_the_other_side_shows_only_when_the_cable_is_mended() -> None:
    async with linked() as pair:
        cut = pair.accepted.cut()
        pair.dialled.cut()
        pair.dialled.close(1000, "nobody hears this")
        await pair.dialled_ear.lost()
        await until_idle()

        heard_before = list(pair.accepted_ear.losses)
        cut.mend()

        assert heard_before == []
        assert await pair.accepted_ear.lost()
        await pair.accepted.wait_closed()


async def test_the_owner_of_a_cut_link_can_end_it() -> None:
    async with linked() as pair:
        cut = pair.dialled.cut()

        pair.dialled.close(1001, "bye")
        await pair.dialled.wait_closed()
        cut.mend()

        assert pair.dialled_ear.losses == ["closed here: 1001 bye"]


async def test_the_owner_can_end_a_cut_link_that_is_gone_already() -> None:
    async with linked() as pair:
        cut = pair.accepted.cut()
        pair.dialled.close()
        await pair.dialled.wait_closed()

        pair.accepted.close()
        cut.mend()
        await pair.accepted.wait_closed()

        assert len(pair.accepted_ear.losses) == 1


async def test_a_link_may_be_cut_before_it_begins(
    loop_errors: list[dict[str, Any]],
) -> None:
    async with linked() as pair:
        cut = pair.accepted.cut()
        pair.accepted.begin(b"\x82\x01x")  # what came right behind the proof

        cut.mend()

        assert await pair.accepted_ear.lost()
        assert pair.accepted_ear.messages == []
        assert loop_errors == []
