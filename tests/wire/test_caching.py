"""CACHE: Cache-Control of the files of a web_server."""

from docroots import docroot, get
from lab import Lab, lab


@lab
async def test_the_first_rule_that_holds_counts_and_only_for_files(lab: Lab) -> None:
    root, pbal = await docroot(
        lab, "CACHE site 365d, Immutable WHEN path \\.js$", "CACHE site off WHEN host other", "CACHE site no-cache WHEN path (/|\\.html)$",
        "CACHE site 90m s-maxage=1d stale-while-revalidate=30", "SET dirindexing = on",
    )  # fmt: skip
    for name in ("a.js", "b.txt", "index.html"):
        (root / name).write_text(name)
    (root / "sub").mkdir()
    common = "max-age=5400, s-maxage=86400, stale-while-revalidate=30"
    for path, fields, status, said in (
        ("/a.js", (), 200, "max-age=31536000, immutable"), ("/%61.js?x", (), 200, "max-age=31536000, immutable"),
        ("/", (), 200, "no-cache"),
        ("/index.html", (), 200, "no-cache"), ("/b.txt", (), 200, common), ("/b.txt", ("If-None-Match: *",), 304, common),
        ("/b.txt", ("Range: bytes=0-0",), 206, common), ("/b.txt", ("Range: bytes=9-",), 416, None),
        ("/b.txt", ('If-Match: "x"',), 412, None),
        ("/none.js", (), 404, None), ("/sub/", (), 200, "no-cache"), ("/sub", (), 301, "max-age=60"),
    ):  # fmt: skip
        answer = await pbal.ask("site", get(path, *fields))
        assert (answer.status, answer.fields.get("cache-control")) == (status, said), path
    other = get("/b.txt").replace(b"Host: h", b"Host: other")
    for request, said in ((other, None), (get("/b.txt"), common), (other, None)):
        assert (await pbal.ask("site", request)).fields.get("cache-control") == said, "one file, by the request"
    assert "rule" in (told := await pbal.say("explain GET http://h/b.txt")) and "CACHE 90m s-maxage=1d stale-while-revalidate=30s" in told


@lab
async def test_rules_are_listed_taken_back_and_refused_where_they_mean_nothing(lab: Lab) -> None:
    root, pbal = await docroot(lab, "CACHE site 1h WHEN path ^/a")
    (root / "a").touch()
    assert await pbal.say("CACHE site 1y") == "OK" == await pbal.say("CACHE site 365d"), "the same in other words is one"
    rules = (await pbal.say("show rules site")).splitlines()
    assert [line.split(" ", 2)[2] for line in rules[:-1]] == ["CACHE site 1h WHEN path ^/a", "CACHE site 1y"]
    assert await pbal.say("DROP RULE site CACHE site 1h WHEN path ^/a") == "OK"
    assert (await pbal.ask("site", get("/a"))).fields["cache-control"] == "max-age=31536000"
    assert await pbal.say("DROP RULE site 1") == "OK"
    assert (await pbal.ask("site", get("/a"))).fields["cache-control"] == "no-cache"
    assert await pbal.say("SET site.cache_control = public 60s") == "OK"
    assert (await pbal.ask("site", get("/a"))).fields["cache-control"] == "public, max-age=60"
    assert "SET cache_control = public 1m" in await pbal.say("dumpconfig")
    assert await pbal.say("SET site.cache_control = OFF") == "OK"
    assert "cache-control" not in (await pbal.ask("site", get("/a"))).fields
    assert "did you mean 'immutable'" in await pbal.say("SET site.cache_control = immutible")
    await pbal.say("CREATE SERVICE proxy")
    await pbal.say("SET role = reverse_proxy")
    for wrong, why in (
        ("CACHE proxy 1h", "CACHE has no effect on a reverse_proxy"),
        ("CACHE site immutible", "did you mean 'immutable'?"), ("CACHE site 1x", "expected a duration such as 10m or 1y"),
        ("CACHE site 1h 2h", "'2h' cannot stand with '1h'"), ("CACHE site off 1h", "'1h' cannot stand with 'off'"),
        ("CACHE site public private", "private says the contrary of public"), ("CACHE site s-maxage", "expected a duration"),
        ("CACHE site no-store 1h", "1h says the contrary of no-store"), ("CACHE site 1h WHEN", "expected"),
        ("CACHE site immutable=1h", "expected a duration"), ("CACHE none 1h", "'none'"),
    ):  # fmt: skip
        answer = await pbal.say(wrong)
        assert answer.startswith("ERROR") and why in answer, wrong
    assert "CACHE" not in await pbal.say("dumpconfig")
