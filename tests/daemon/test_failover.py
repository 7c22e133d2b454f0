"""Two providers of which the preferred one fails: it is left, probed, and preferred again, without swinging."""

import logging
from collections import Counter

from captchad.daemon.providers import Providers, ProviderSettings
from captchad.model.key import Key
from captchad.model.states import Category
from captchad.policy.breaker import BreakerSettings
from captchad.policy.routing import ReturnSettings
from tests.support.clock import FakeClock

THRESHOLD, RESET_S, RETURN_S = 5, 60.0, 120.0
BREAKER = BreakerSettings(THRESHOLD, RESET_S, 3, ReturnSettings(5, RETURN_S))


class World:
    """Submits one a second; each provider takes them or is out, and a captcha is solved at once."""

    def __init__(self, *names: str, breaker: BreakerSettings = BREAKER, max_in_flight: int = 10) -> None:
        self.clock = FakeClock()
        self.providers = Providers(self.clock, breaker, lambda _: None, logging.getLogger("test"))
        self.providers.configure(
            {
                name: ProviderSettings(
                    name, Key(f"http://{name}", "k"), max_in_flight, priority, 1.0, 1.0, 60.0, 10.0, 60.0
                )
                for priority, name in enumerate(names, 1)
            },
            set(),
        )
        self.out: set[str] = set()
        self.in_flight: Counter[str] = Counter()
        self.providers.watch(lambda: self.in_flight, dict)

    def submit(self) -> str | None:
        """The provider that takes the next submit."""
        name = self.providers.choose(self.providers.lanes)
        if name in self.out:
            self.providers.fault(name, "submit", "HTTP_5XX", Category.TRANSIENT)
        elif name is not None:
            self.providers.submit_taken(name)
        return name

    def run(self, seconds: int) -> list[str | None]:
        """Where one submit a second goes."""
        taken = []
        for _ in range(seconds):
            taken.append(self.submit())
            self.clock.advance(1.0)
        return taken


def test_a_failing_provider_is_left_after_its_faults_and_comes_back_after_successes_and_a_time() -> None:
    world = World("first", "second")
    assert world.run(3) == ["first"] * 3

    world.out.add("first")
    assert world.run(THRESHOLD) == ["first"] * THRESHOLD
    left_for = int(RESET_S) - 1
    assert world.run(left_for) == ["second"] * left_for
    world.out.clear()

    taken = world.run(int(RETURN_S - RESET_S))
    assert taken.count("first") == 5  # the probes that it takes to come back
    assert taken[:5] == ["first"] * 5
    assert world.run(3) == ["first"] * 3


def test_an_outage_that_goes_on_costs_one_call_a_reset_timeout() -> None:
    world = World("first", "second")
    world.out.add("first")
    taken = world.run(1800)
    assert taken.count("first") <= THRESHOLD + 1800 / RESET_S
    assert None not in taken


def test_a_provider_that_fails_now_and_then_does_not_make_the_load_swing() -> None:
    world = World("first", "second")
    switches = 0
    main = "first"
    for minute in range(60):
        world.out = {"first"} if minute % 2 else set()
        now_main = "first" if world.run(60).count("first") > 30 else "second"
        switches += now_main != main
        main = now_main
    assert switches <= 60 * 60 / RETURN_S


def test_one_on_its_way_back_helps_out_when_no_other_has_room() -> None:
    world = World("first", "second", breaker=BreakerSettings(1, RESET_S, 1, ReturnSettings(2, 1e6)))
    world.out.add("first")
    assert world.submit() == "first"
    world.out.clear()
    world.clock.advance(RESET_S)
    assert world.run(3) == ["first", "first", "second"]

    world.in_flight["second"] = 10
    assert world.run(5) == ["first"] * 5
    world.in_flight["second"] = 9
    assert world.submit() == "second"


def test_status_says_what_a_provider_on_its_way_back_lacks() -> None:
    world = World("first", "second")
    world.out.add("first")
    world.run(THRESHOLD)
    assert world.providers.why_held_back("first") == "open after HTTP_5XX, next try in 59 s"
    assert world.providers.why_held_back("second") is None
    world.clock.advance(RESET_S)
    world.out.clear()
    world.run(2)
    assert world.providers.why_held_back("first") == "on its way back: 2 of 5 submits taken, 57 s left"
    for _ in range(3):
        world.providers.submit_taken("first")
    world.clock.advance(57.0)  # it is back, and nobody has asked for a provider since
    assert world.providers.why_held_back("first") is None


def test_a_single_provider_is_used_again_as_soon_as_its_breaker_closes() -> None:
    world = World("only")
    world.out.add("only")
    world.run(THRESHOLD)
    world.out.clear()
    world.clock.advance(RESET_S)
    assert world.run(20) == ["only"] * 20
    assert world.providers.why_held_back("only") is None
