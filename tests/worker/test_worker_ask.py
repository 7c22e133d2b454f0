"""Questions to a real worker: answered once, and never in the way of submits and polls."""

from captchad.worker.main import ASK_THREADS
from tests.worker.workerkit import KEY, NAME, Request, Rig, rig


def ask(worker: Rig, q: int, what: str, *, cid: str = "", within_s: float = 20.0, provider: str = NAME) -> None:
    worker.tell("ask", q=q, provider=provider, key="k", what=what, cid=cid, within_s=within_s)


def told(worker: Rig) -> dict[int, dict[str, object]]:
    """What was said to each question, by its number."""
    return {each["q"]: {name: each[name] for name in each if name not in "mq"} for each in worker.got("told")}


def answer(request: Request) -> bool:
    match request.fields["action"]:
        case "getbalance":
            request.answer("1.25")
        case "threadsinfo":
            request.raw(b'{"threads":"10","working_threads":"3"}')
        case "reportgood":
            request.answer("OK_REPORT_RECORDED")
        case "reportbad":
            request.answer("ERROR_DUPLICATE_REPORT", status=0)
        case _:
            return False
    return True


def test_each_question_is_put_and_answered(tmp_path):
    with rig(tmp_path) as worker:
        worker.provider.reply = answer
        ask(worker, 1, "balance")
        ask(worker, 2, "threads")
        ask(worker, 3, "good", cid="77")
        ask(worker, 4, "bad", cid="78")
        ask(worker, 5, "balance", provider="other")
        worker.until(lambda: len(told(worker)) == 5)

        assert told(worker) == {
            1: {"balance": 1.25},
            2: {"threads": 10, "working": 3},
            3: {},
            4: {"code": "ERROR_DUPLICATE_REPORT", "category": "task", "text": ""},
            5: {"code": "NO_PROVIDER", "category": "transient", "text": "not in the configuration"},
        }
        assert sorted((each.fields["action"], each.fields.get("id")) for each in worker.provider.seen) == [
            ("getbalance", None),
            ("reportbad", "78"),
            ("reportgood", "77"),
            ("threadsinfo", None),
        ]
        assert {each.fields["key"] for each in worker.provider.seen} == {KEY}


def test_questions_that_hang_hold_up_no_submit_and_no_poll_and_end_in_their_time(tmp_path):
    def hang(request: Request) -> bool:
        if request.fields.get("action") == "getbalance":
            return False
        request.answer("1001" if request.path == "/in.php" else "token")
        return True

    with rig(tmp_path) as worker:
        worker.provider.reply = hang
        for q in range(ASK_THREADS):
            ask(worker, q, "balance", within_s=60.0)
        worker.until(lambda: len(worker.provider.held) == ASK_THREADS)
        worker.submit(1)
        worker.poll(2)
        worker.until(lambda: set(worker.outcomes()) == {1, 2})
        assert told(worker) == {}
        for request in worker.provider.held:
            request.answer("1.25")
        worker.until(lambda: len(told(worker)) == ASK_THREADS)

        worker.provider.held.clear()
        worker.messages.clear()
        for q in range(ASK_THREADS + 2):
            ask(worker, q, "balance", within_s=3.0 if q < ASK_THREADS else 1.5)
        worker.until(lambda: len(told(worker)) == ASK_THREADS + 2)
        assert sorted(each["code"] for each in told(worker).values()) == ["INTERNAL"] * 2 + ["NETWORK"] * ASK_THREADS
        assert len(worker.provider.held) == ASK_THREADS, "asked after its time"


def test_a_worker_that_drains_answers_every_question(tmp_path):
    with rig(tmp_path) as worker:
        for q in range(ASK_THREADS + 1):
            ask(worker, q, "good", cid=str(q))
        worker.until(lambda: len(worker.provider.held) == ASK_THREADS)
        worker.tell("drain")
        worker.until(lambda: told(worker))
        assert told(worker) == {
            ASK_THREADS: {"code": "INTERNAL", "category": "transient", "text": "not asked: drain"},
        }
        for request in worker.provider.held:
            request.answer("OK_REPORT_RECORDED")
        worker.until(lambda: worker.exit is not None and not worker.reading)
        assert worker.exit == 0
        assert [told(worker)[q] for q in range(ASK_THREADS)] == [{}] * ASK_THREADS
