"""in.php, solve.php and res.php: what the provider does with each call.

The order of a call: decode, faults that come before, key, limits, fields, threads and money, the action itself, faults
that come after. A charge is booked when a captcha is taken; one that ends with an error code is paid back.
"""

__all__ = ["Provider"]

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any

from captchad.provider.sandbox.admin import PREFIX, administer
from captchad.provider.sandbox.answers import Answer, Solution, error, render, solve, write_solution
from captchad.provider.sandbox.chance import draw
from captchad.provider.sandbox.faults import Faults, Strike, Views, deliver
from captchad.provider.sandbox.form import BadForm, Form, decode
from captchad.provider.sandbox.http1 import Reply, Request
from captchad.provider.sandbox.ledger import Account, Captcha, Identity, Ledger, State
from captchad.provider.sandbox.limits import LimitBook
from captchad.provider.sandbox.methods import check, identify
from captchad.provider.sandbox.pingback import Courier, host_of
from captchad.provider.sandbox.scenario import Scenario

Respond = Callable[[Reply], None]

#: Longest field value that the ledger keeps; of a longer one it keeps the digest.
_LEDGER_TEXT = 256
_KEY_LENGTH = 32
#: Faults that leave the answer whole, however slow.
_HARMLESS = frozenset({"delay", "slow_headers", "drip"})
_OPS = {
    "get": "poll",
    "get2": "poll",
    "reportgood": "report",
    "reportbad": "report",
    "getbalance": "balance",
    "threadsinfo": "threads",
    "add_pingback": "pingback",
    "get_pingback": "pingback",
    "del_pingback": "pingback",
}


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the protocol, decoded."""

    form: Form
    address: str
    now: float
    respond: Respond


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A client of solve.php that waits for its answer."""

    call: _Call
    strike: Strike | None


class Provider:
    """The application behind the connections. Everything happens in the event loop's thread."""

    def __init__(self, scenario: Scenario) -> None:
        self._loop = asyncio.get_running_loop()
        self._courier = Courier()
        self._waiters: dict[int, _Waiter] = {}
        self._submits: Counter[str] = Counter()  # by identity
        self._calls: Counter[str] = Counter()  # of res.php, by kind
        self._ledger = Ledger(self._loop.time(), self._look_at, self._on_end)
        self._actions: dict[str, Callable[[_Call, Account], Answer]] = {
            "get": self._get,
            "get2": self._get,
            "reportgood": self._report,
            "reportbad": self._report,
            "getbalance": self._balance,
            "threadsinfo": self._threads,
            "add_pingback": self._add_pingback,
            "get_pingback": self._get_pingback,
            "del_pingback": self._del_pingback,
        }
        self.use(scenario)

    def handle(self, request: Request, respond: Respond) -> None:
        """Answer one request."""
        path = "/" + request.path.lstrip("/")
        if path.startswith(PREFIX):
            respond(administer(request, self))
            return
        totals = self._ledger.totals
        totals.connections += request.nth == 1
        totals.requests += 1
        now = self._loop.time()
        if self._limits.too_fast(request.peer, now):
            totals.limited += 1
            respond(Reply(b"Too Many Requests", status=429))
        elif path not in ("/in.php", "/res.php", "/solve.php"):
            respond(Reply(b"Not Found", status=404))
        elif request.method not in ("GET", "POST"):
            respond(Reply(b"Method Not Allowed", status=405, headers=(("Allow", "GET, POST"),), close=True))
        else:
            self._take(path, request, respond, now)

    def _take(self, path: str, request: Request, respond: Respond, now: float) -> None:
        try:
            form = decode(request)
        except BadForm:
            is_submit = path != "/res.php"
            self._ledger.totals.submits += is_submit
            self._ledger.totals.refused += is_submit
            respond(render(error("ERROR_BAD_PARAMETERS"), Form(), self._switches))
            return
        call = _Call(form, request.peer, now, respond)
        if path == "/res.php":
            self._res(call)
        else:
            self._in(call, wait=path == "/solve.php")

    # The operator's side (admin.Controls).

    def use(self, scenario: Scenario) -> None:
        """Go on with this scenario from now: its clock, its rules' counts and the limits start afresh."""
        now = self._loop.time()
        self._scenario = scenario
        self._switches = scenario.switches
        self._faults = Faults(scenario, now)
        self._limits = LimitBook(scenario.limits)
        self._ledger.take_plans(scenario.keys, now)

    def reset(self) -> None:
        """Forget captchas, sums, counts and bans; keep the scenario."""
        self._ledger.reset()
        self._submits.clear()
        self._calls.clear()
        self.use(self._scenario)

    def ledger_view(self) -> dict[str, Any]:
        """Everything."""
        return self._ledger.snapshot(self._loop.time())

    def totals_view(self) -> dict[str, Any]:
        """The sums."""
        return self._ledger.sums(self._loop.time())

    def verify(self, token: str) -> dict[str, Any]:
        """Use a token as a site would."""
        return self._ledger.use(token, self._switches.token_life_s, self._loop.time())

    # Submits.

    def _in(self, call: _Call, *, wait: bool) -> None:
        totals = self._ledger.totals
        totals.submits += 1
        identity = identify(call.form)
        name = identity.name
        self._submits[name] += 1
        nth = self._submits[name]
        views = (identity.fields, call.form.fields)
        strike = self._strike("submit", views, name, nth, call.now)
        if strike and not strike.fault.after:
            totals.faulted += 1
            call.respond(self._harm(strike, Reply(b""), call.form))
            return
        found = self._submit(call, identity, views, nth, _Waiter(call, strike) if wait else None)
        if isinstance(found, Captcha):
            totals.answers_lost += strike is not None and strike.fault.name not in _HARMLESS
            if wait:
                return  # answered by _on_end
            answer = Answer(good=True, value=self._written_id(found))
        else:
            totals.refused += 1
            answer = error(found)
        call.respond(self._harm(strike, render(answer, call.form, self._switches), call.form))

    def _submit(self, call: _Call, identity: Identity, views: Views, nth: int, waiter: _Waiter | None) -> Captcha | str:
        """Take a captcha, or say why not."""
        account = self._authorise(call)
        if isinstance(account, str):
            return account
        key, now = account.plan.key, call.now
        if code := self._limits.submit(key, now):
            self._ledger.totals.limited += 1
            return code
        if self._switches.check_fields and (code := check(call.form, self._switches)):
            return code
        self._ledger.advance(account, now)
        if code := self._lack(account):
            self._limits.refused(key, code, now)
            return code
        captcha = self._draft(call, account, identity, views, nth, watched=waiter is not None)
        if waiter:
            self._waiters[captcha.captcha_id] = waiter
        self._ledger.create(captcha, now)
        self._limits.created(key)
        return captcha

    def _draft(
        self, call: _Call, account: Account, identity: Identity, views: Views, nth: int, *, watched: bool
    ) -> Captcha:
        shape = self._faults.shape(views, identity.method, identity.name, nth, call.now)
        solve_s = shape.solve(draw(self._scenario.seed, "solve", identity.name, nth))
        return Captcha(
            captcha_id=self._ledger.new_id(),
            account=account,
            identity=identity,
            nth=nth,
            fields=_ledger_fields(call.form),
            created_at=call.now,
            outcome=shape.outcome,
            solve_s=math.inf if shape.outcome == "never" else solve_s,
            answer=shape.answer,
            price=account.price,
            pingback=call.form.get("pingback"),
            watched=watched or bool(call.form.get("pingback")),
        )

    def _lack(self, account: Account) -> str:
        """The code that says what the account has too little of, or ""."""
        if account.balance < account.price:
            return "ERROR_ZERO_BALANCE"
        if account.free or self._switches.saturation == "queue":
            return ""
        return "ERROR_ZERO_BALANCE" if self._switches.saturation == "zero_balance" else "ERROR_NO_SLOT_AVAILABLE"

    def _written_id(self, captcha: Captcha) -> int | str:
        integers = self._switches.integer_ids
        as_integer = captcha.identity.method in integers or "*" in integers
        return captcha.captcha_id if as_integer else str(captcha.captcha_id)

    # Results.

    def _res(self, call: _Call) -> None:
        action = call.form.get("action")
        op = _OPS.get(action, "")
        captcha = self._find(call.form.get("id"))
        if op == "poll":
            self._count_poll(call.form)
        name, nth = (captcha.name, captcha.polls) if captcha else (op, self._calls[op])
        self._calls[op] += 1
        views = (call.form.fields, *_views_of(captcha))
        strike = self._strike(op, views, name, nth, call.now)
        if strike and not strike.fault.after:
            call.respond(self._harm(strike, Reply(b""), call.form))
            return
        reply = render(self._result(call, action), call.form, self._switches)
        call.respond(self._harm(strike, reply, call.form))

    def _result(self, call: _Call, action: str) -> Answer:
        account = self._authorise(call)
        if isinstance(account, str):
            return error(account)
        if code := self._limits.result(account.plan.key, call.now):
            self._ledger.totals.limited += 1
            return error(code)
        if not action:
            return error("ERROR_EMPTY_ACTION")
        handler = self._actions.get(action)
        if handler is None:
            return error("ERROR_BAD_PARAMETERS")
        self._ledger.advance(account, call.now)
        return handler(call, account)

    def _count_poll(self, form: Form) -> None:
        self._ledger.totals.polls += 1
        for text in (form.get("ids") or form.get("id")).split(","):
            captcha = self._find(text)
            if captcha:
                captcha.polls += 1

    def _get(self, call: _Call, account: Account) -> Answer:
        if "ids" in call.form.fields:
            return self._get_many(call, account)
        captcha = self._captcha(call.form.get("id"), account, call.now)
        if isinstance(captcha, str):
            return error(captcha)
        answer = self._ending(captcha, call.now)
        if answer.good and call.form.get("action") == "get2":
            price = _money(captcha.price)
            text = f"{answer.text}|{price}"
            return Answer(True, answer.value, extra={**answer.extra, "price": price}, text=text, key=answer.key)
        return answer

    def _get_many(self, call: _Call, account: Account) -> Answer:
        texts = []
        for each in call.form.get("ids").split(","):
            captcha = self._captcha(each, account, call.now)
            answer = error(captcha) if isinstance(captcha, str) else self._ending(captcha, call.now)
            texts.append(str(answer.value if answer.text is None else answer.text))
        return Answer(good=True, value="|".join(texts), bare=True)

    def _ending(self, captcha: Captcha, now: float) -> Answer:
        """What a poll of a captcha says."""
        if captcha.state in (State.WAITING, State.WORKING):
            captcha.not_ready += 1
            self._ledger.totals.not_ready += 1
            return error(self._switches.not_ready)
        if captcha.state is State.FAILED:
            return error(captcha.outcome)
        solution = self._solution(captcha)
        answer = write_solution(solution, self._switches)
        self._ledger.give_out(captcha, {solution.text, str(answer.value)}, now)
        return answer

    def _solution(self, captcha: Captcha) -> Solution:
        if captcha.answer is not None:
            return Solution(captcha.answer)
        name = f"{self._scenario.seed}:{captcha.captcha_id}"
        return solve(captcha.fields, captcha.identity.method, name, self._switches)

    def _report(self, call: _Call, account: Account) -> Answer:
        captcha = self._captcha(call.form.get("id"), account, call.now)
        if isinstance(captcha, str):
            return error(captcha)
        if captcha.report:
            return error("ERROR_DUPLICATE_REPORT")
        if captcha.state is not State.SOLVED or call.now - captcha.created_at > self._switches.report_life_s:
            return error("ERROR_REPORT_NOT_RECORDED")
        captcha.report = call.form.get("action").removeprefix("report")
        self._ledger.totals.reports += 1
        return Answer(good=True, value="OK_REPORT_RECORDED", bare=True)

    def _balance(self, call: _Call, account: Account) -> Answer:
        return Answer(good=True, value=_money(account.balance), bare=True)

    def _threads(self, call: _Call, account: Account) -> Answer:
        write = str if self._switches.threads_as == "string" else int
        threads, working = write(account.plan.threads), write(len(account.working))
        # No source knows a text form; it is JSON there too.
        text = f'{{"threads":{threads},"working_threads":{working}}}'
        return Answer(True, threads, bare=True, extra={"working_threads": working}, text=text, key="threads")

    def _add_pingback(self, call: _Call, account: Account) -> Answer:
        address = call.form.get("addr")
        if not host_of(address):
            return error("ERROR_BAD_PARAMETERS")
        if _is_other_ip(host_of(address), call.address):
            return error("ERROR_IP_ADDRES")
        account.pingbacks[address] = None
        return Answer(good=True, value="OK", bare=True)

    def _get_pingback(self, call: _Call, account: Account) -> Answer:
        return Answer(good=True, value="|".join(account.pingbacks))

    def _del_pingback(self, call: _Call, account: Account) -> Answer:
        address = call.form.get("addr")
        if address == "all":
            account.pingbacks.clear()
        elif address not in account.pingbacks:
            return error("ERROR_BAD_PARAMETERS")
        else:
            del account.pingbacks[address]
        return Answer(good=True, value="OK", bare=True)

    # Shared.

    def _authorise(self, call: _Call) -> Account | str:
        """The account of the call's key, or the code that refuses it."""
        if code := self._limits.banned_address(call.address, call.now):
            self._ledger.totals.limited += 1
            return code
        key = call.form.get("key")
        account = self._ledger.account(key)
        if account is not None:
            return account
        self._ledger.totals.bad_keys += 1
        self._limits.wrong_key(call.address, call.now)
        return "ERROR_KEY_DOES_NOT_EXIST" if len(key) == _KEY_LENGTH else "ERROR_WRONG_USER_KEY"

    def _find(self, text: str) -> Captcha | None:
        return self._ledger.captchas.get(int(text)) if _is_id(text) else None

    def _captcha(self, text: str, account: Account, now: float) -> Captcha | str:
        """A captcha of this account that is still known, or the code that says why not."""
        if not _is_id(text):
            return "ERROR_WRONG_ID_FORMAT"
        captcha = self._ledger.captchas.get(int(text))
        if captcha is None or captcha.account is not account or captcha.state is State.FORGOTTEN:
            return "ERROR_WRONG_CAPTCHA_ID"
        return "ERROR_WRONG_CAPTCHA_ID" if now - captcha.created_at > self._switches.id_life_s else captcha

    def _strike(self, op: str, views: Views, name: str, nth: int, now: float) -> Strike | None:
        strike = self._faults.strike(op, views, name, nth, now)
        if strike:
            self._ledger.totals.faults[strike.fault.name] += 1
        return strike

    def _harm(self, strike: Strike | None, reply: Reply, form: Form) -> Reply:
        """What the client gets in place of the true reply."""
        if strike is None:
            return reply
        if strike.fault.is_code:
            return render(error(strike.fault.name), form, self._switches)
        return deliver(strike, reply, self._scenario)

    # Ends that somebody waits for.

    def _look_at(self, account: Account, at: float) -> None:
        self._loop.call_at(at, self._look, account, at)

    def _look(self, account: Account, at: float) -> None:
        account.wake_at = math.inf
        # The loop may wake a clock tick early.
        self._ledger.advance(account, max(at, self._loop.time()))

    def _on_end(self, captcha: Captcha) -> None:
        if self._ledger.captchas.get(captcha.captcha_id) is not captcha:
            return  # reset since
        waiter = self._waiters.pop(captcha.captcha_id, None)
        if waiter:
            self._answer_waiter(waiter, captcha)
        if captcha.pingback and captcha.state is not State.FORGOTTEN:
            self._call_back(captcha)

    def _answer_waiter(self, waiter: _Waiter, captcha: Captcha) -> None:
        forgotten = captcha.state is State.FORGOTTEN
        answer = error("ERROR_WRONG_CAPTCHA_ID") if forgotten else self._ending(captcha, self._loop.time())
        form = waiter.call.form
        waiter.call.respond(self._harm(waiter.strike, render(answer, form, self._switches), form))

    def _call_back(self, captcha: Captcha) -> None:
        plan, seed, totals = self._scenario.pingback, self._scenario.seed, self._ledger.totals
        url = captcha.pingback
        registered = host_of(url) in map(host_of, captcha.account.pingbacks)
        if draw(seed, "lose", captcha.name) < plan.lose_p or (plan.registered_only and not registered):
            totals.pingbacks_lost += 1
            return
        solved = captcha.state is State.SOLVED
        code = self._solution(captcha).text if solved else captcha.outcome

        def done(taken: bool) -> None:
            captcha.pingbacks += taken
            totals.pingbacks_sent += taken
            totals.pingbacks_failed += not taken
            if taken and solved:
                self._ledger.give_out(captcha, {code}, self._loop.time())

        twice = draw(seed, "twice", captcha.name) < plan.duplicate_p
        for _ in range(2 if twice else 1):
            totals.pingbacks_lost += not self._courier.send(url, captcha.captcha_id, code, plan, done)


def _views_of(captcha: Captcha | None) -> Views:
    return (captcha.identity.fields, captcha.fields) if captcha else ()


def _ledger_fields(form: Form) -> dict[str, str]:
    """What the ledger keeps of a submit: all but the key, and of what is long the digest."""
    kept = {name: _short(value.encode(), value) for name, value in form.fields.items() if name != "key"}
    return kept | {name: _short(upload.data, None) for name, upload in form.files.items()}


def _short(data: bytes, text: str | None) -> str:
    if text is not None and len(text) <= _LEDGER_TEXT:
        return text
    return f"{len(data)} bytes, digest {blake2b(data, digest_size=8).hexdigest()}"


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _is_other_ip(host: str, peer: str) -> bool:
    try:
        return ip_address(host) != ip_address(peer)
    except ValueError:
        return False


def _money(millionths: int) -> str:
    return f"{millionths / 1_000_000:.6f}".rstrip("0").rstrip(".")
