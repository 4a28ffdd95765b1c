"""What readers are promised, on whole servers: windows, rooms, several pbals, a store that dies, reloads in the middle."""

import asyncio
from functools import partial

import pytest
from authority import Authority
from lab import Lab, Pbal, lab, until
from polls import empty
from secure import files, trusting
from windows import TRANSPORTS, Window, Writer, all_end, all_read, in_order, kept, numbers, of_each_kind


async def store_of(lab: Lab, store: str) -> str:
    """The statement that chooses a store."""
    return "" if store == "memory" else f"SET poll_store = memcached {(await lab.memcached()).address}"


def told_or_got(window: Window, said: list[str]) -> None:
    """In order, none twice; and where some are left out, a gap was said there."""
    places = [said.index(text) for text in window.got]
    assert places == sorted(set(places)), "in order, none twice"
    for count, (before, after) in enumerate(zip([-1, *places], places, strict=False)):
        assert after == before + 1 or count in window.gaps, f"nothing said between {before} and {after}"


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_two_windows_of_one_user_and_two_users_in_a_room(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(kept("ttl", await store_of(lab, store)))
        windows = [*of_each_kind([pbal], "anna"), *of_each_kind([pbal], "anna")]
        users = [*of_each_kind([pbal], "room"), *of_each_kind([pbal], "room")]
        for window in [*windows, *users]:
            window.longest = 0.2
            window.start()
        anna, one, other = Writer(pbal, "anna"), Writer(pbal, "room"), Writer(pbal, "room")
        await asyncio.gather(anna.say(numbers("a", 200), 0.002), one.say(numbers("x", 100), 0.004), other.say(numbers("y", 100), 0.004))
        await all_read([*windows, *users], 200)
        assert all((window.got, window.gaps) == (anna.said, []) for window in windows)
        in_order(users[0].got, [one, other])
        assert all(user.got == users[0].got and not user.gaps for user in users), "the same order for everybody"
        await until(lambda: empty(pbal), "all to be gone")

    run()


@lab
async def test_three_pbals_a_thousand_messages_each_way_and_none_missed_by_any(lab: Lab) -> None:
    store = await store_of(lab, "memcached")
    pbals = [await lab.pbal(kept("ttl", store)) for _ in range(3)]
    here = [Window([pbal], "room", transport).start() for pbal, transport in zip(pbals, TRANSPORTS, strict=True)]
    roaming = of_each_kind(pbals, "room")
    for window in roaming:
        window.longest = 0.3
        window.start()
    writers = [Writer(pbal, "room") for pbal in pbals]
    await asyncio.gather(*(writer.say(numbers(name, 1000)) for writer, name in zip(writers, "xyz", strict=True)))
    await all_read([*here, *roaming], 3000)
    in_order(here[0].got, writers)
    assert all(window.got == here[0].got and not window.gaps for window in [*here, *roaming])
    assert sum(window.cuts for window in roaming) > 5


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_a_window_that_sleeps_misses_none(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(kept("ttl", await store_of(lab, store), "SET poll_ttl = 5s", "SET poll_timeout = 1s"))
        windows = of_each_kind([pbal], "a")
        writer = Writer(pbal, "a")
        await writer.say(["before"])
        for window in windows:
            window.start()
        await until(lambda: all(window.got == ["before"] for window in windows), "them to be awake")
        for window in windows:
            await window.stop()
        asleep = asyncio.create_task(asyncio.sleep(3))
        await writer.say(numbers("n", 50), 0.02)
        await asleep
        for window in windows:
            window.start()
        await all_read(windows, 51)
        assert all((window.got, window.gaps) == (writer.said, []) for window in windows)

    run()


def _more_failed(pbal: Pbal, than: int) -> bool:
    return pbal.counts["poll_publish_failed"] > than


@lab
async def test_memcached_killed_and_started_again_in_the_middle(lab: Lab) -> None:
    cache = await lab.memcached()
    store = f"SET poll_store = memcached {cache.address}"
    pbals = [await lab.pbal(kept("ttl", store, "SET poll_store_timeout = 200ms")) for _ in range(2)]
    here = [*of_each_kind(pbals[:1], "a"), *of_each_kind(pbals[1:], "a")]
    roaming = of_each_kind(pbals, "a")
    windows = [*here, *roaming]
    for window in windows:
        window.longest = 0.2 if window in roaming else 0.0
        window.start()
    writer = Writer(pbals[0], "a")
    for turn in range(2):
        await writer.say(numbers(f"{turn}-", 40), 0.002)
        await until(lambda: all(window.got[-1:] == writer.said[-1:] for window in windows), "all to be there")
        cache.kill()
        late = asyncio.create_task(writer.say([f"{turn}-late"]))
        failed = pbals[0].counts["poll_publish_failed"]
        await until(partial(_more_failed, pbals[0], failed), "it to be missed")
        cache.start()
        await late
    await writer.say(["end"])
    await all_end(windows, "end")
    for window in windows:
        told_or_got(window, writer.said)
        assert len(window.gaps) >= 2, "each start anew is told"


@pytest.mark.parametrize("keep", ["ttl", "confirmed"])
@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_reloads_in_the_middle(store: str, keep: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        pbal = await lab.pbal(kept(keep, await store_of(lab, store)))
        windows = of_each_kind([pbal])
        writers = [Writer(pbal, transport) for transport in TRANSPORTS]
        for window in windows:
            window.longest = 0.3
            window.start()
        talk = asyncio.gather(*(writer.say(numbers("n", 120), 0.002) for writer in writers))
        reloads = 0
        while not talk.done():
            assert await pbal.say("RELOAD poll") == "OK"
            reloads += 1
            await asyncio.sleep(0.05)
        await talk
        await all_read(windows, 120)
        assert all((window.got, window.gaps) == (writers[0].said, []) for window in windows) and reloads >= 3

    run()


@pytest.mark.parametrize("store", ["memory", "memcached"])
def test_a_poll_a_stream_and_a_socket_over_tls(store: str) -> None:
    @lab
    async def run(lab: Lab) -> None:
        authority = Authority(lab.folder)
        tls = trusting(authority)
        pbal = await lab.pbal(kept("ttl", await store_of(lab, store), *files(authority.certify("a.test")).strip().split("\n")))
        windows = of_each_kind([pbal], "a", tls)
        for window in windows:
            window.longest = 0.3
            window.start()
        writer = Writer(pbal, "a", tls)
        await writer.say(numbers("n", 100), 0.005)
        await all_read(windows, 100)
        assert all((window.got, window.gaps) == (writer.said, []) for window in windows)
        assert pbal.counts["tls_handshakes"] > 4
        await until(lambda: empty(pbal), "all to be gone")

    run()
