"""The monitor's pages as values: judgement, exposition, HTML."""

import math
from html.parser import HTMLParser

import pytest
from prometheus_client.parser import text_string_to_metric_families

from captchad.monitor import health, metrics, page

GOOD = {"live": True, "ready": True, "checks": {"workers": {"status": "pass", "output": ""}}}


def families(text: str) -> dict:
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_labels_and_help_are_escaped():
    value = 'a\\b"c\nd'
    text = metrics.render([["captchad_x", "gauge", "one\nline \\ here", [[{"name": value}, 1]]]])
    family = families(text)["captchad_x"]
    assert family.samples[0].labels == {"name": value}
    assert family.documentation == "one\nline \\ here"


def test_numbers_of_every_kind():
    values = [0, 3, 2.5, 1e300, -1, math.inf, -math.inf, 1_700_000_000.25, True]
    text = metrics.render([["captchad_x", "gauge", "", [[{"n": str(n)}, value] for n, value in enumerate(values)]]])
    assert [sample.value for sample in families(text)["captchad_x"].samples] == values
    assert "NaN" in metrics.render([["captchad_x", "gauge", "", [[{}, math.nan]]]])


def test_an_unknown_value_is_left_out():
    assert families(metrics.render([["captchad_x", "gauge", "", [[{}, None]]]]))["captchad_x"].samples == []


def test_a_histogram_has_its_suffixes():
    samples = [[{"le": "1"}, 2, "_bucket"], [{"le": "+Inf"}, 3, "_bucket"], [{}, 4.5, "_sum"], [{}, 3, "_count"]]
    family = families(metrics.render([["captchad_wait_seconds", "histogram", "Wait.", samples]]))[
        "captchad_wait_seconds"
    ]
    assert [sample.name.removeprefix("captchad_wait_seconds") for sample in family.samples] == [
        "_bucket",
        "_bucket",
        "_sum",
        "_count",
    ]


@pytest.mark.parametrize(
    ("given", "age_s", "expected"),
    [
        (None, None, ("fail", False, False)),
        (GOOD, 0.0, ("pass", True, True)),
        (GOOD, health.STALE_S, ("pass", True, True)),
        (GOOD, health.STALE_S + 0.1, ("fail", False, False)),
        (GOOD | {"ready": False}, 0.0, ("fail", True, False)),
        (GOOD | {"live": False}, 0.0, ("fail", False, True)),
        (GOOD | {"checks": {"a": {"status": "warn"}, "b": {"status": "pass"}}}, 0.0, ("warn", True, True)),
        (GOOD | {"checks": {"a": {"status": "warn"}, "b": {"status": "fail"}}}, 0.0, ("fail", True, True)),
        (GOOD | {"checks": {"a": {"status": "strange"}}}, 0.0, ("fail", True, True)),
        ({}, 0.0, ("fail", False, False)),
    ],
)
def test_the_judgement(given, age_s, expected):
    found = health.judge(given, age_s)
    assert (found.status, found.live, found.ready) == expected
    assert bool(found.output) == (found.status != "pass")


def test_a_failure_says_why():
    checks = {"solve_rate": {"status": "fail", "output": "12 % of 50"}, "disk": {"status": "warn", "output": "low"}}
    assert health.judge(GOOD | {"checks": checks, "ready": False}, 0.0).output == "not ready; solve_rate: 12 % of 50"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_nothing_in_the_page_is_markup_that_came_from_outside():
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    status = {
        "daemon": {evil: evil, "config": {"path": evil, "problem": evil}},
        "workers": {"list": [{evil: evil}]},
        "queue": {evil: evil},
        "providers": [{"name": evil}],
    }
    judged = health.judge(GOOD | {"checks": {evil: {"status": evil, "output": evil}}}, 0.0)
    parser = _Tags()
    parser.feed(page.render(status, judged, 1.0))
    assert parser.tags.isdisjoint({"script", "img"})
    assert "onerror" not in parser.attributes


def test_the_page_survives_an_empty_and_a_strange_status():
    for status in ({}, {"daemon": [], "workers": None, "queue": 3, "providers": {"a": 1}}):
        assert "captchad" in page.render(status, health.judge(None, None), None)
