"""A solving service without a network: it takes captchas, keeps a ledger, and misbehaves as the test says."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from captchad.provider.transport import Lost, NotSent, Response
from tests.provider_side.kernel import Kernel

Answer = Response | NotSent | Lost


@dataclass(frozen=True)
class Call:
    """A request as the service gets it. `op`: submit, poll, balance, threads or report; `nth` of this op, from 1."""

    op: str
    nth: int
    at: float
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Trouble:
    """`answer` instead of the true one; `after`: the call is carried out all the same. `hang`: none ever comes."""

    answer: Answer | None = None
    after: bool = False
    hang: bool = False


@dataclass
class Captcha:
    """One that the service has taken, and is paid for."""

    task: str
    taken_at: float
    ready_at: float
    polls: int = 0
    refunded: bool = False


class Service:
    """One provider.

    `solve_s` draws how long a captcha takes, `trouble` says what goes wrong with a call, `write` puts a status and what
    goes with it into the words of an answer.
    """

    def __init__(self, solve_s: Callable[[], float] = lambda: 10.0, latency_s: float = 0.1) -> None:
        self.solve_s = solve_s
        self.latency_s = latency_s
        self.trouble: Callable[[Call], Trouble | None] = lambda call: None
        self.calls: list[Call] = []
        self.captchas: dict[str, Captcha] = {}
        self.calling = 0
        self.struck: list[float] = []  # when submits and polls that trouble befell came to their end
        self._counts: Counter[str] = Counter()
        self.write: Callable[[int, object], Response] = lambda status, request: says(
            {"status": status, "request": request}
        )

    def join(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @property
    def charges(self) -> Counter[str]:
        """The ledger: captchas taken, by task."""
        return Counter(captcha.task for captcha in self.captchas.values())

    def count(self, op: str, since: float = 0.0, until: float = float("inf")) -> int:
        return sum(call.op == op and since <= call.at < until for call in self.calls)

    def take(self, op: str, fields: Mapping[str, str], deadline: float) -> Answer:
        """One call, from its first byte to its answer or its deadline."""
        self._counts[op] += 1
        now = self._kernel.clock.monotonic()
        call = Call(op, self._counts[op], now, dict(fields))
        self.calls.append(call)
        trouble = self.trouble(call) or Trouble()
        true = self._answer(call) if trouble.after or not (trouble.hang or trouble.answer) else None
        late = trouble.hang or self.latency_s >= deadline - now
        self.calling += 1
        self._kernel.sleep(max(0.0, deadline - now) if late else self.latency_s)
        self.calling -= 1
        if trouble != Trouble() and op in ("submit", "poll"):
            self.struck.append(self._kernel.clock.monotonic())
        if late:
            return Lost("deadline passed")
        answer = trouble.answer or true
        assert answer is not None
        return answer

    def _answer(self, call: Call) -> Answer:
        match call.op:
            case "submit":
                cid = str(1000 + len(self.captchas))
                self.captchas[cid] = Captcha(call.fields["googlekey"], call.at, call.at + self.solve_s())
                return self.write(1, cid)
            case "poll":
                captcha = self.captchas[call.fields["id"]]
                captcha.polls += 1
                if call.at < captcha.ready_at:
                    return self.write(0, "CAPCHA_NOT_READY")
                return self.write(1, f"token-of-{captcha.task}")
            case "balance":
                return says({"status": 1, "request": "1000.0"})
            case "threads":
                working = sum(call.at < captcha.ready_at for captcha in self.captchas.values())
                return says({"status": 1, "threads": 1000, "working_threads": working})
        return says({"status": 1, "request": "OK_REPORT_RECORDED"})


_OPS = {"get": "poll", "get2": "poll", "getbalance": "balance", "threadsinfo": "threads"}


class SimulatedTransport:
    """Stands for captchad.provider.transport.Transport; `services` by their addresses."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services
        self.deadline: float | None = None

    def post_form(self, url: str, fields: Mapping[str, str], deadline: float) -> Answer:
        return self._call(url, fields, deadline)

    def get(self, url: str, params: Mapping[str, str], deadline: float) -> Answer:
        return self._call(url, params, deadline)

    def abort(self, before: float = 0.0) -> None:
        """Every simulated call ends at its deadline by itself."""

    def close(self) -> None:
        pass

    def _call(self, url: str, fields: Mapping[str, str], deadline: float) -> Answer:
        address, _, file = url.rpartition("/")
        op = "submit" if file == "in.php" else _OPS.get(fields["action"], "report")
        self.deadline = deadline
        try:
            return self._services[address].take(op, fields, deadline)
        finally:
            self.deadline = None


def says(body: object, status: int = 200) -> Response:
    """An HTTP answer: bytes or text as they are, anything else as JSON."""
    if isinstance(body, str):
        body = body.encode()
    return Response(status, "text/html", body if isinstance(body, bytes) else json.dumps(body).encode())
