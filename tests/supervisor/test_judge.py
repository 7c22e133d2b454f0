"""The judge of workers, and the processes that it judges."""

import os
import random
import signal

from captchad.ipc.loop import Loop
from captchad.model.clock import SystemClock
from captchad.supervisor.judge import STACK_S, Limits, Sentence, Vital, judge, retire_after
from captchad.supervisor.process import fork_child, reap, send_signal

LIMITS = Limits(boot_s=30.0, stall_s=120.0)


def test_boot_has_a_grace_of_its_own() -> None:
    assert judge(Vital(0.0), 29.9, LIMITS) is Sentence.LIVE
    assert judge(Vital(0.0), 30.0, LIMITS) is Sentence.CONDEMN


def test_silence_is_a_stall_and_the_condemned_is_killed_after_its_stack() -> None:
    assert judge(Vital(0.0, last_beat_at=10.0), 129.9, LIMITS) is Sentence.LIVE
    assert judge(Vital(0.0, last_beat_at=10.0), 130.0, LIMITS) is Sentence.CONDEMN
    condemned = Vital(0.0, last_beat_at=10.0, condemned_at=130.0)
    assert judge(condemned, 130.0 + STACK_S / 2, LIMITS) is Sentence.LIVE
    assert judge(condemned, 130.0 + STACK_S, LIMITS) is Sentence.KILL


def test_a_drain_has_an_end() -> None:
    draining = Vital(0.0, last_beat_at=10.0, drain_until=20.0)
    assert judge(draining, 19.0, LIMITS) is Sentence.LIVE
    assert judge(draining, 20.0, LIMITS) is Sentence.KILL


def test_recycling_is_spread() -> None:
    assert retire_after(0, random.Random(1)) == 0
    ends = {retire_after(1000, random.Random(seed)) for seed in range(50)}
    assert len(ends) > 10
    assert all(900 <= end <= 1000 for end in ends)


def test_a_child_has_only_its_pipe_and_its_death_is_known() -> None:
    secret = os.open("/dev/null", os.O_RDONLY)

    def body(channel_fd: int) -> int:
        extra = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) not in (0, 1, 2, channel_fd)]
        os.write(channel_fd, b"!" if secret in extra else b".")
        return 7

    child = fork_child(body)
    loop = Loop(SystemClock())
    dead: list[int] = []
    loop.watch(child.pidfd, readable=lambda: dead.append(reap(child)) or loop.unwatch(child.pidfd))
    while not dead:
        loop.turn(5.0)
    assert dead == [7]
    assert os.read(child.channel.fd, 10) == b"."
    child.close()
    os.close(secret)
    loop.close()


def test_a_signal_reaches_this_child_and_a_dead_one_is_no_error() -> None:
    child = fork_child(lambda _: signal.pause() or 0)
    send_signal(child, signal.SIGKILL)
    assert reap(child) == -signal.SIGKILL
    send_signal(child, signal.SIGKILL)
    child.close()
