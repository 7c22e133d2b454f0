"""Turns by priority and by age: nobody starves, and a backlog does not take the urgent ones' turns."""

from captchad.policy.turns import AGED_EVERY, AGED_S, after, by_age


def run(arrivals: list[tuple[float, int]], turns: int) -> list[tuple[int, float, float]]:
    """One task a second is submitted. (priority, queued at, submitted at) of each; `arrivals` are (when, priority)."""
    arrivals, waiting, done, since = sorted(arrivals), [], [], 0
    for now in range(turns):
        while arrivals and arrivals[0][0] <= now:
            waiting.append(arrivals.pop(0))
        if not waiting:
            continue
        heads = [min(each for each in waiting if each[1] == line) for line in {line for _, line in waiting}]
        aged = [each for each in heads if each[0] < now - AGED_S] if by_age(since) else []
        chosen = min(aged) if aged else min(heads, key=lambda each: each[1])
        since = after(since, aged=bool(aged))
        waiting.remove(chosen)
        done.append((chosen[1], chosen[0], float(now)))
    return done


def test_a_low_tasks_turn_comes_by_age_under_a_stream_of_critical_ones() -> None:
    critical = [(float(second), 0) for second in range(600)]
    done = run([*critical, (0.0, 3), (0.0, 2)], 600)
    assert [(line, at - queued < AGED_S + 2 * AGED_EVERY) for line, queued, at in done if line] == [
        (2, True),
        (3, True),
    ]


def test_the_critical_ones_keep_most_turns_however_long_the_backlog_is() -> None:
    backlog = [(0.0, 2)] * 2000
    critical = [(1000.0, 0)] * 100
    done = run([*backlog, *critical], 1500)
    waits = [at - queued for line, queued, at in done if line == 0]
    assert len(waits) == 100
    assert max(waits) <= 100 * AGED_EVERY / (AGED_EVERY - 1)
